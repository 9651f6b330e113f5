"""Builds the message packages that a robot's ROS has and the PyPI wheels lack: ackermann_msgs and nav2_msgs.

    .venv/bin/python tests/firmware/build_messages.py [FOLDER]

The wheels bring rosidl's generators and the headers, so that a C compiler is all it takes. What is built is what colcon
would build (C structures, both type supports that rmw_fastrtps asks for, the Python binding), only without CMake.
Takes about five seconds, once per machine: the result is cached by everything that went into it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

DEFINITIONS = Path(__file__).parent / "ros_messages"
# Goes with the environment that it was built for.
CACHE = Path(sys.prefix) / "ros_messages"
# What the definitions refer to, directly or not.
DEPENDENCIES = ("std_msgs", "builtin_interfaces")
TYPE_SUPPORTS = ("rosidl_typesupport_fastrtps_c", "rosidl_typesupport_introspection_c")
# The packages whose versions decide what the generated code looks like and links to.
GENERATORS = ("rosidl_generator_c", "rosidl_generator_py", *TYPE_SUPPORTS)


class CannotBuildError(Exception):
    """This machine has no compiler or no rosidl; the message says which, and tests skip with it."""


def build(target: Path) -> Path:
    """Builds the message packages below a cache folder, unless they are there already.

    Safe against several builders at once: each builds in a folder of its own, and the first to be ready wins.

    Args:
        target: the cache folder; shared between versions of ROS, Python and of the definitions.

    Returns:
        The folder to put on PYTHONPATH. Nothing is needed on LD_LIBRARY_PATH.

    Raises:
        CannotBuildError: no C++ compiler, no Python headers, or no rosidl.
        RuntimeError: the generators or the compiler failed.
    """
    prefix = _ros_prefix()
    _need_a_compiler()
    ready = target / _key(prefix)
    if ready.is_dir():
        return ready
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".building-") as scratch:
        # A process of its own: rosidl reads AMENT_PREFIX_PATH, which is no business of the caller's rclpy.
        environment = os.environ | {"AMENT_PREFIX_PATH": str(prefix)}
        command = [sys.executable, "-W", "ignore", __file__, "--into", scratch]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"building {DEFINITIONS} failed:\n{done.stdout}{done.stderr}")
        try:
            (Path(scratch) / "python").rename(ready)
        except OSError:
            # Somebody else was faster; anything but that is an error.
            if not ready.is_dir():
                raise
    return ready


def _ros_prefix() -> Path:
    """The folder with ROS's include, lib and share: the virtual environment, or a ROS installation."""
    candidates = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p] + [Path(sys.prefix)]
    for prefix in candidates:
        if all((prefix / "share" / package / "package.xml").is_file() for package in (*GENERATORS, *DEPENDENCIES)):
            return prefix
    raise CannotBuildError(
        f"no rosidl generators below {', '.join(map(str, candidates))}: pip install 'edge-bdl[ros]', or source ROS"
    )


def _need_a_compiler() -> None:
    if shutil.which("gcc") is None or shutil.which("g++") is None:
        raise CannotBuildError("no gcc and g++ on PATH: apt-get install g++")
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not headers.is_file():
        raise CannotBuildError(f"no {headers}: install the Python headers, e.g. apt-get install python3-dev")


def _key(prefix: Path) -> str:
    """A digest of all that decides what the built files are."""
    import numpy as np

    digest = hashlib.sha256()
    for text in (str(prefix), sysconfig.get_config_var("EXT_SUFFIX"), np.__version__):
        digest.update(text.encode() + b"\0")
    sources = [prefix / "share" / package / "package.xml" for package in (*GENERATORS, *DEPENDENCIES)]
    for path in [Path(__file__), *sources, *sorted(DEFINITIONS.glob("*/msg/*.idl"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _build_package(package: Path, prefix: Path, scratch: Path) -> None:
    """Generates and compiles one package into `scratch/python/NAME`."""
    # Imported here, in the process that has AMENT_PREFIX_PATH.
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_typesupport_c.cli import GenerateCTypesupport
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport
    from rosidl_typesupport_introspection_c.cli import GenerateIntrospectionCTypesupport

    name = package.name
    sources = scratch / "sources"
    parts: dict[str, Any] = {
        "rosidl_generator_c": GenerateC("c"),
        "rosidl_typesupport_fastrtps_c": GenerateFastRTPSCTypesupport("fastrtps_c"),
        "rosidl_typesupport_introspection_c": GenerateIntrospectionCTypesupport("introspection_c"),
        "dispatch": GenerateCTypesupport("dispatch", typesupport_implementations=TYPE_SUPPORTS),
        "binding": GeneratePython("binding", typesupport_implementations=["rosidl_typesupport_c"]),
    }
    definitions = [f"{package}:{path.relative_to(package)}" for path in sorted(package.glob("msg/*.idl"))]
    interfaces = [str(prefix / "share" / dependency) for dependency in DEPENDENCIES]
    for part, generator in parts.items():
        generator.generate(name, definitions, interfaces, sources / part / name)

    built = scratch / "python" / name
    shutil.copytree(sources / "binding" / name / "msg", built / "msg", ignore=shutil.ignore_patterns("*.c"))
    (built / "__init__.py").touch()
    includes = [sources / part for part in parts]
    for part in ("rosidl_generator_c", *TYPE_SUPPORTS):
        # Type supports are opened by this name at run time; rmw finds them because the binding has loaded them.
        needs = [] if part == "rosidl_generator_c" else [f"{name}__rosidl_generator_c"]
        _compile([sources / part], built / f"lib{name}__{part}.so", includes, prefix, needs)
    binding = built / f"{name}_s__rosidl_typesupport_c{sysconfig.get_config_var('EXT_SUFFIX')}"
    needs = [f"{name}__{part}" for part in ("rosidl_generator_c", *TYPE_SUPPORTS)]
    _compile([sources / "dispatch", sources / "binding"], binding, includes, prefix, needs)


def _compile(folders: list[Path], library: Path, includes: list[Path], prefix: Path, needs: list[str]) -> None:
    """Compiles every source below the folders into one shared library, which finds its neighbours beside it."""
    import numpy as np

    found = sorted(path for folder in folders for suffix in ("c", "cpp") for path in folder.rglob(f"*.{suffix}"))
    installed = [prefix / "include", *(path for path in (prefix / "include").iterdir() if path.is_dir())]
    searched = [*includes, *installed, Path(sysconfig.get_paths()["include"]), Path(np.get_include())]
    parts = ("rosidl_generator_c", "rosidl_generator_py", *TYPE_SUPPORTS)
    linked = needs + [f"{dependency}__{part}" for dependency in DEPENDENCIES for part in parts]
    command = ["gcc", "-shared", "-fPIC", "-O1", "-w", *map(str, found), "-o", str(library)]
    command += [f"-I{path}" for path in searched]
    command += [f"-L{library.parent}", f"-L{prefix / 'lib'}", f"-Wl,-rpath,$ORIGIN:{prefix / 'lib'}"]
    command += [f"-Wl,-soname,{library.name}", "-Wl,--no-as-needed", *(f"-l{name}" for name in linked)]
    command += ["-lrosidl_typesupport_c", "-lrosidl_runtime_c", "-lrcutils", "-lfastcdr", "-lstdc++"]
    subprocess.run(command, check=True)


def main() -> None:
    """Builds below the folder named, or in the cache, and prints what to put on PYTHONPATH."""
    if sys.argv[1:2] == ["--into"]:
        for package in sorted(path.parent for path in DEFINITIONS.glob("*/msg")):
            _build_package(package, _ros_prefix(), Path(sys.argv[2]))
    else:
        print(build(Path(sys.argv[1]) if sys.argv[1:] else CACHE))


if __name__ == "__main__":
    main()
