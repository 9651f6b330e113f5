"""What a live ROS 2 system must be like for the gate to protect it: one check per file, pure of ROS.

`edge_bdl_firmware.ros.doctor_node` looks; what it saw is an `Observation`, and every check reads that.
"""
