"""The processes without ROS: the same monitor, gate and guard over Unix datagram sockets."""
