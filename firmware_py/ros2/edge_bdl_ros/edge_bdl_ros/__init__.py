"""Executables of the nodes for ``ros2 run`` and ``ros2 launch``; the nodes are in edge_bdl_firmware."""
