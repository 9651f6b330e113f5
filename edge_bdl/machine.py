"""What a latency was measured on, read from /proc, /sys and /etc: facts, or None where they cannot be read.

A figure without its governor, clock and temperature is a rumour: the same board is three times slower in another power
mode, and throttles after a minute in the sun.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One machine at one moment.

    Attributes:
        processor: Model name.
        board: Device-tree model, such as ``NVIDIA Jetson Orin Nano``.
        architecture: Such as ``aarch64``.
        cores: Processors that this process may run on.
        governor: Frequency governor of the first processor.
        clock_mhz: Its clock now.
        max_clock_mhz: Its highest clock.
        temperature_c: The hottest thermal zone.
        throttled: How often the cores have throttled since start, or the firmware's throttling flags.
        memory_mb: Physical memory.
        nvpmodel: Power mode of a Jetson.
        system: Kernel and release.
        python: Version of the interpreter.
    """

    processor: str | None
    board: str | None
    architecture: str
    cores: int | None
    governor: str | None
    clock_mhz: float | None
    max_clock_mhz: float | None
    temperature_c: float | None
    throttled: int | None
    memory_mb: float | None
    nvpmodel: str | None
    system: str
    python: str


def read_machine(root: Path = Path("/")) -> Machine:
    """Read this machine's facts.

    Args:
        root: Where its file system starts.
    """
    cpu = root / "sys/devices/system/cpu/cpu0/cpufreq"
    memory_kb = _field(root / "proc/meminfo", "MemTotal")
    return Machine(
        processor=_field(root / "proc/cpuinfo", "model name") or _field(root / "proc/cpuinfo", "Hardware"),
        board=_text(root / "proc/device-tree/model"),
        architecture=platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        governor=_text(cpu / "scaling_governor"),
        clock_mhz=_number(cpu / "scaling_cur_freq", 1e-3) or _as_number(_field(root / "proc/cpuinfo", "cpu MHz")),
        max_clock_mhz=_number(cpu / "cpuinfo_max_freq", 1e-3),
        temperature_c=max(_numbers(root / "sys/class/thermal", "thermal_zone*/temp", 1e-3), default=None),
        throttled=_throttled(root),
        memory_mb=None if memory_kb is None else _as_number(memory_kb.partition(" ")[0], 1 / 1024),
        nvpmodel=_text(root / "var/lib/nvpmodel/status"),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def _throttled(root: Path) -> int | None:
    firmware = _text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")  # Raspberry Pi, hexadecimal
    if firmware is not None:
        try:
            return int(firmware, 16)
        except ValueError:
            return None
    counts = _numbers(root / "sys/devices/system/cpu", "cpu[0-9]*/thermal_throttle/core_throttle_count")
    return int(sum(counts)) if counts else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0 \n") or None
    except OSError:
        return None


def _field(path: Path, name: str) -> str | None:
    """The value of the first ``name : value`` line."""
    for line in (_text(path) or "").splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip() or None
    return None


def _number(path: Path, scale: float = 1.0) -> float | None:
    return _as_number(_text(path), scale)


def _numbers(folder: Path, pattern: str, scale: float = 1.0) -> list[float]:
    found = (_number(path, scale) for path in folder.glob(pattern))
    return [number for number in found if number is not None]


def _as_number(text: str | None, scale: float = 1.0) -> float | None:
    try:
        return None if text is None else float(text) * scale
    except ValueError:
        return None
