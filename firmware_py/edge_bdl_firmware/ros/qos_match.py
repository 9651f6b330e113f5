"""Whether ROS connects a publisher with a subscription, by the rules of what is asked for against what is offered."""

from __future__ import annotations

from typing import Any

from rclpy.qos import QoSCompatibility, qos_check_compatible

_ERROR = "ERROR: "


def why_apart(publisher_qos: Any, subscription_qos: Any) -> str | None:
    """Why they exchange nothing, for people; None where they do.

    Args:
        publisher_qos: ``QoSProfile``, what is offered.
        subscription_qos: ``QoSProfile``, what is asked for.
    """
    compatibility, reason = qos_check_compatible(publisher_qos, subscription_qos)
    if compatibility != QoSCompatibility.ERROR:
        return None
    errors = (part for part in str(reason).split(";") if part.startswith(_ERROR))
    return "; ".join(part.removeprefix(_ERROR).lower() for part in errors)
