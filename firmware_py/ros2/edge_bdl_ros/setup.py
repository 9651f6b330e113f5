"""The ament_python package for colcon users: executables, parameters and the launch file."""

from glob import glob

from setuptools import setup

NAME = "edge_bdl_ros"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/config", glob("config/*.yaml")),
        (f"share/{NAME}/launch", glob("launch/*.launch.xml")),
    ],
    install_requires=["setuptools", "edge-bdl"],
    zip_safe=True,
    maintainer="edge-bdl",
    maintainer_email="edge-bdl@users.noreply.github.com",
    description="Monitor, gate and guard of edge-bdl: launch file and parameters.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "monitor = edge_bdl_ros.nodes:monitor",
            "gate = edge_bdl_ros.nodes:gate",
            "guard = edge_bdl_ros.nodes:guard",
        ],
    },
)
