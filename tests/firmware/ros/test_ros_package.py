"""The package for colcon users: what its files name is there, and every parameter is in them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs the extra ros")

import yaml
from rcl_interfaces.srv import GetParameters, ListParameters

from edge_bdl.cli import VERBS

from .robot import MASKS, Robot

PACKAGE = Path(__file__).parents[3] / "firmware_py" / "ros2" / "edge_bdl_ros"
ROS_OWN = {"use_sim_time", "start_type_description_service"}  # every node has these
LAUNCH = ElementTree.parse(PACKAGE / "launch" / "edge_bdl.launch.xml").getroot()
NODES = {str(node.get("exec")): node for node in LAUNCH.iter("node")}


def everything(name: str) -> str:
    """A parameter file with what is switched off in it switched on."""
    return re.sub(r"^( +)#(\w+: )", r"\1\2", (PACKAGE / "config" / f"{name}.yaml").read_text(), flags=re.MULTILINE)


def parameters(name: str) -> dict[str, Any]:
    (node,) = yaml.safe_load(everything(name)).items()
    assert node[0] == f"/**/edge_bdl_{name}"
    return dict(node[1]["ros__parameters"])


def entry_points() -> dict[str, str]:
    tree = ast.parse((PACKAGE / "setup.py").read_text())
    (value,) = [k.value for call in ast.walk(tree) if isinstance(call, ast.Call) for k in call.keywords
                if k.arg == "entry_points"]  # fmt: skip
    return dict(line.split(" = ") for line in ast.literal_eval(value)["console_scripts"])


@pytest.mark.parametrize("name", ["gate", "guard"])
def test_every_parameter_is_in_its_file_and_the_file_says_the_defaults(robot: Robot, name: str) -> None:
    values = parameters(name)
    bundle = {"bundle": str(MASKS)} if "bundle" in values else {}
    # A value that is no default shows that the file is read; a namespace, that its node's name is matched.
    other = {"command_timeout_s": 0.4} if name == "gate" else {"heartbeat_timeout_s": 0.3}
    file = robot.folder / "all.yaml"
    file.write_text(yaml.safe_dump({f"/**/edge_bdl_{name}": {"ros__parameters": {**values, **bundle, **other}}}))
    robot.start(f"ros-{name}", "--ros-args", "-r", "__ns:=/truck", "--params-file", file)
    node = f"/truck/edge_bdl_{name}"
    names = set(robot.call(ListParameters, f"{node}/list_parameters", ListParameters.Request()).result.names)
    settable = {entry for entry in names - ROS_OWN if not entry.startswith("threshold.")}
    assert settable == set(values)
    request = GetParameters.Request(names=list(other))
    answer = robot.call(GetParameters, f"{node}/get_parameters", request).values
    assert [value.double_value for value in answer] == list(other.values())


@pytest.mark.parametrize("name", ["gate", "guard"])
def test_the_file_as_it_is_changes_nothing(robot: Robot, name: str) -> None:
    with_file = ["--ros-args", "--params-file", PACKAGE / "config" / f"{name}.yaml"]
    own = [MASKS] if name == "gate" else []
    robot.start(f"ros-{name}", *own, "--ros-args", "-r", "__ns:=/plain")
    robot.start(f"ros-{name}", *own, *with_file, "-r", "__ns:=/filed", "-p", f"state_file:={robot.folder}/other.state")
    found = []
    for namespace in ("plain", "filed"):
        node = f"/{namespace}/edge_bdl_{name}"
        names = robot.call(ListParameters, f"{node}/list_parameters", ListParameters.Request()).result.names
        values = robot.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=names)).values
        found.append({entry: value for entry, value in zip(names, values, strict=True) if entry != "state_file"})
    assert found[0] == found[1]


def test_every_executable_is_a_verb_of_ours(tmp_path: Path) -> None:
    assert set(entry_points()) == set(NODES) == {"monitor", "gate", "guard"}
    for name, target in entry_points().items():
        assert f"ros-{name}" in VERBS
        module, _, function = target.partition(":")
        code = f"import sys; from {module} import {function}; sys.argv[1:] = ['--help']; sys.exit({function}())"
        done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"usage: edge-bdl ros-{name}" in done.stdout


def test_the_launch_file_names_what_is_there() -> None:
    arguments = {str(argument.get("name")): argument for argument in LAUNCH.findall("arg")}
    used = set(re.findall(r"\$\(var (\w+)\)", ElementTree.tostring(LAUNCH, encoding="unicode")))
    assert used == set(arguments)
    for name, node in NODES.items():
        assert node.get("pkg") == "edge_bdl_ros"
        assert node.get("name") == f"edge_bdl_{name}"
        default = str(arguments[f"{name}_params"].get("default"))
        assert (PACKAGE / default.replace("$(find-pkg-share edge_bdl_ros)/", "")).is_file()
        given = {str(entry.get("name")) for entry in node.findall("param") if entry.get("name")}
        assert given <= set(parameters(name)) | ROS_OWN


def remappings() -> Iterator[tuple[str, str]]:
    for name, node in NODES.items():
        for entry in node.findall("remap"):
            yield name, str(entry.get("from"))


def test_its_remappings_are_topics_of_the_nodes() -> None:
    from edge_bdl_firmware.ros import topics

    commands = {topics.CMD_VEL_IN.name, topics.CMD_VEL_OUT.name}
    known = {
        "gate": commands,
        "guard": commands - {topics.CMD_VEL_IN.name},
        "monitor": {topics.IMAGE.name, topics.IMAGE_COMPRESSED.name},
    }
    found = list(remappings())
    assert {name: {topic for node, topic in found if node == name} for name in NODES} == known


def test_the_package_depends_on_every_message_that_is_imported() -> None:
    depends = {str(entry.text) for entry in ElementTree.parse(PACKAGE / "package.xml").getroot().iter("exec_depend")}
    sources = (PACKAGE.parents[1] / "edge_bdl_firmware").rglob("*.py")
    imported = {
        match
        for source in sources
        for match in re.findall(
            r"^(?:from|import) (rclpy|\w+_interfaces|\w+_msgs|std_srvs)\b", source.read_text(), re.M
        )
    }
    assert imported <= depends
    # Those that only some robots have are imported where a parameter asks for them.
    assert not {"ackermann_msgs", "nav2_msgs"} & imported
