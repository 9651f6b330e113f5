"""How long from an image to its assessment, over real ROS, as Markdown, and as JSON on the last line.

    .venv/bin/python tools/bench/image_to_assessment.py [--frames 700] [--rate 20]

Three processes: a camera, the monitor node, and this one, which hears the assessments. A small CNN with dropout in its
head, 16 samples, one thread; weights are untrained, for time does not depend on them. Time counts from just before the
camera publishes to the assessment's arrival here, so it includes what DDS takes both ways. What is not the engine's
should be at most 5 ms at the median. "arrived" is the share of the published images that were assessed. The camera has
Fast DDS's own settings, the monitor those that it gives itself.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Before rclpy is imported: nobody else's nodes in here, and ours nowhere else.
os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from PIL import Image as Pictures
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from edge_bdl.machine import read_machine
from edge_bdl.profiling import percentile_ms
from edge_bdl_firmware.messages import Assessment
from edge_bdl_firmware.ros import topics
from edge_bdl_firmware.ros.conversions import assessment_of, stamp_of

MOST_OVERHEAD_MS = 5.0
MOST_FAULTY = 0.01  # a machine that stutters makes a frame late
WARM_UP_S, PATIENCE_S = 2.5, 30.0
PICTURES = 16
JPEG_QUALITY = 90
SIZES = {"160 x 120": (120, 160), "640 x 480": (480, 640)}
#: In the order in which a frame goes through them; ``other`` is what is left inside the monitor.
STAGES = ("to the node", "wait", "decode", "check", "engine", "other", "to the subscriber")


class Heard(NamedTuple):
    """An assessment and when it came, CLOCK_MONOTONIC."""

    assessment: Assessment
    at_s: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Image in to assessment out, over ROS.")
    parser.add_argument("--frames", type=int, default=700, help="per row (default: 700, enough for a p99)")
    parser.add_argument("--rate", type=float, default=20.0, help="of the camera, Hz (default: 20)")
    parser.add_argument("--camera", nargs=3, metavar=("HEIGHT", "WIDTH", "TRANSPORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.camera is not None:
        height, width, transport = options.camera
        be_camera(int(height), int(width), transport, options.rate)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, size in SIZES.items():
            bundle = Path(folder) / f"{size[1]}.ebdl"
            export_cnn(bundle, size)
            for transport in ("raw", "compressed"):
                heard = measure(bundle, size, transport, options)
                rows.append(row(f"{name} {'raw' if transport == 'raw' else 'JPEG'}", heard, options.rate))
    print(markdown(rows, options.rate))
    print(json.dumps({"rate_hz": options.rate, "rows": rows}))


def export_cnn(out: Path, size: tuple[int, int]) -> None:
    """A small CNN that takes images of this size, calibrated on such pictures so that it has all scores and checks."""
    import torch

    from edge_bdl_export import export
    from edge_bdl_train.models import SmallCnn
    from edge_bdl_train.preprocess import Preprocess

    torch.manual_seed(0)
    generator = np.random.default_rng(1)
    frames = np.stack([picture(generator, *size) for _ in range(320)])
    model = SmallCnn(Preprocess((60, 96))).eval()
    with contextlib.redirect_stdout(io.StringIO()):
        export(model, frames[:1], out, task="heteroscedastic", calibration=frames, formats=("onnx",))


def measure(bundle: Path, size: tuple[int, int], transport: str, options: argparse.Namespace) -> list[Heard]:
    """The assessments of so many frames after the warm-up."""
    rclpy.init()
    node = Node("bench")
    heard: list[Heard] = []

    def hear(message: Any) -> None:
        at_s = time.monotonic()
        heard.append(Heard(assessment_of(message), at_s))

    node.create_subscription(DiagnosticArray, f"{topics.MONITOR_NODE}/assessment", hear, topics.ASSESSMENT.qos)
    try:
        with (
            process("-m", "edge_bdl.cli", "ros-monitor", bundle, "--ros-args", "-p", f"image_transport:={transport}"),
            process(__file__, "--rate", options.rate, "--camera", *size, transport),
        ):
            wait(node, lambda: bool(heard))
            begin_s = time.monotonic() + WARM_UP_S
            wait(node, lambda: time.monotonic() > begin_s)
            heard.clear()
            wait(node, lambda: len(heard) >= options.frames, options.frames / options.rate)
    finally:
        node.destroy_node()
        rclpy.shutdown()
    faults = [one.assessment.fault for one in heard if one.assessment.fault is not None]
    if len(faults) > MOST_FAULTY * len(heard):
        raise SystemExit(
            f"{len(faults)} frames had faults, so these times mean nothing: {sorted(set(map(str, faults)))}"
        )
    return heard[: options.frames]


@contextlib.contextmanager
def process(*arguments: object) -> Iterator[None]:
    """A Python process that ends with the block."""
    with subprocess.Popen([sys.executable, *map(str, arguments)], stderr=subprocess.DEVNULL) as started:
        try:
            yield
        finally:
            started.terminate()


def wait(node: Node, condition: Any, expected_s: float = 0.0) -> None:
    """Spin until it is so."""
    until_s = time.monotonic() + expected_s + PATIENCE_S
    while not condition():
        if time.monotonic() > until_s:
            raise SystemExit("no assessments come")
        rclpy.spin_once(node, timeout_sec=0.1)


def be_camera(height: int, width: int, transport: str, rate_hz: float) -> None:
    """Publish pictures until somebody ends this process."""
    generator = np.random.default_rng(0)
    pictures = [picture(generator, height, width) for _ in range(PICTURES)]
    rclpy.init()
    node = Node("camera")
    if transport == "raw":
        kind, topic = Image, topics.IMAGE
        messages = [
            Image(height=height, width=width, step=3 * width, encoding="rgb8", data=pixels.tobytes())
            for pixels in pictures
        ]
    else:
        kind, topic = CompressedImage, topics.IMAGE_COMPRESSED
        messages = [CompressedImage(format="rgb8; jpeg compressed bgr8", data=jpeg(pixels)) for pixels in pictures]
    out = node.create_publisher(kind, topic.name, topic.qos)
    due_s = time.monotonic()
    index = 0
    while True:
        time.sleep(max(0.0, due_s - time.monotonic()))
        due_s += 1.0 / rate_hz
        message = messages[index % PICTURES]
        index += 1
        message.header.stamp = stamp_of(time.time_ns())
        out.publish(message)


def picture(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Soft shapes with a sensor's noise: noise alone would make a JPEG several times as long as a camera's."""
    coarse = Pictures.fromarray(generator.integers(30, 226, (6, 8, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((width, height), Pictures.Resampling.BICUBIC), np.int16)
    return np.clip(soft + generator.normal(0.0, 3.0, soft.shape).astype(np.int16), 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray) -> bytes:
    """As a file."""
    file = io.BytesIO()
    Pictures.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def row(name: str, heard: list[Heard], rate_hz: float) -> dict[str, Any]:
    """What was measured with one camera."""
    stages = [stages_ms(*one) for one in heard if one.assessment.fault is None]
    total = np.sort([sum(one.values()) for one in stages])
    beside = np.sort([sum(one.values()) - one["engine"] for one in stages])
    first, last = heard[0].assessment, heard[-1].assessment
    published = 1 + (last.stamp_ns - first.stamp_ns) * 1e-9 * rate_hz
    return {
        "camera": name,
        "n": len(stages),
        "faulty": len(heard) - len(stages),
        "all_p50_ms": percentile_ms(total, 50),
        "all_p99_ms": percentile_ms(total, 99),
        "beside_engine_p50_ms": percentile_ms(beside, 50),
        "beside_engine_p99_ms": percentile_ms(beside, 99),
        "stages_p50_ms": {stage: float(np.median([one[stage] for one in stages])) for stage in STAGES},
        "arrived": len(heard) / published,
        "dropped": last.dropped - first.dropped,
    }


def stages_ms(assessment: Assessment, at_s: float) -> dict[str, float]:
    """Where one frame's time went; both clocks are of this machine, and their difference is taken when it arrives."""
    stages = assessment.stages_ms
    to_monotonic_s = time.monotonic() - time.time()
    published_s = assessment.stamp_ns * 1e-9 + to_monotonic_s
    inside = {name: stages[name] for name in ("wait", "decode", "check", "engine")}
    return {
        "to the node": (assessment.received_s - published_s) * 1e3,
        **inside,
        "other": stages["all"] - sum(inside.values()),
        "to the subscriber": (at_s - assessment.received_s) * 1e3 - stages["all"],
    }


def markdown(rows: list[dict[str, Any]], rate_hz: float) -> str:
    """The tables."""
    machine = read_machine()
    lines = [
        f"\n{machine.processor}, {machine.cores} cores, {time.strftime('%Y-%m-%d')}; camera {rate_hz:g} Hz, S=16\n",
        "| camera | n | arrived | all, p50 ms | p99 ms | beside the engine, p50 ms | p99 ms | p50 at most 5 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        held = "yes" if one["beside_engine_p50_ms"] <= MOST_OVERHEAD_MS else "NO"
        lines.append(
            f"| {one['camera']} | {one['n']} | {one['arrived']:.0%} "
            f"| {_ms(one['all_p50_ms'])} | {_ms(one['all_p99_ms'])} "
            f"| {_ms(one['beside_engine_p50_ms'])} | {_ms(one['beside_engine_p99_ms'])} | {held} |"
        )
    lines += ["", f"| camera, p50 ms | {' | '.join(STAGES)} |", "|---" * (len(STAGES) + 1) + "|"]
    for one in rows:
        lines.append(f"| {one['camera']} | {' | '.join(_ms(one['stages_p50_ms'][stage]) for stage in STAGES)} |")
    return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "n too small" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
