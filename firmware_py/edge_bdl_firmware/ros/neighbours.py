"""Who else is on our topics: those that do not fit, those that went away, and those that must not be there.

Looked up about once a second. rclpy's events would tell the same, and have to be waited for in every round of the
executor, which costs a gate a third of its time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rclpy.duration import Duration, Infinite
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.qos import QoSCompatibility, qos_check_compatible

from edge_bdl_firmware.ros.log import NodeLog

_NOT_KNOWN_YET = "_NODE_NAME_UNKNOWN_"

NO_PUBLISHER_EVENTS = PublisherEventCallbacks(use_default_callbacks=False)
NO_SUBSCRIPTION_EVENTS = SubscriptionEventCallbacks(use_default_callbacks=False)


class Publishers:
    """Who publishes on a topic that we hear; logs whom we cannot hear, and when nobody is left.

    Args:
        node: Ours.
        log: Of the node.
        subscription: What hears.
    """

    def __init__(self, node: Any, log: NodeLog, subscription: Any) -> None:
        self._node, self._log, self._heard = node, log, subscription
        self.topic = subscription.topic_name
        self.count = 0
        self._unfit: set[str] = set()

    def look(self) -> None:
        """Count those who fit."""
        kind, requested = self._heard.msg_type, self._heard.qos_profile
        misfits = [
            _misfit(info, kind, info.qos_profile, requested)
            for info in self._node.get_publishers_info_by_topic(self.topic)
        ]
        unfit = {misfit for misfit in misfits if misfit is not None}
        for misfit in sorted(unfit - self._unfit):
            self._log.warning(f"nothing is received on {self.topic} from {misfit}")
        self._unfit = unfit
        before, self.count = self.count, misfits.count(None)
        if before and not self.count:
            self._log.warning(f"nobody publishes on {self.topic} any more")


class Subscribers:
    """Who hears a topic that we publish on; logs who cannot.

    Args:
        node: Ours.
        log: Of the node.
        publisher: What speaks.
    """

    def __init__(self, node: Any, log: NodeLog, publisher: Any) -> None:
        self._node, self._log, self._said = node, log, publisher
        self._unfit: set[str] = set()

    def look(self) -> None:
        """Look who is there."""
        topic = self._said.topic_name
        unfit = {
            text
            for info in self._node.get_subscriptions_info_by_topic(topic)
            if (text := _misfit(info, self._said.msg_type, self._said.qos_profile, info.qos_profile))
        }
        for text in sorted(unfit - self._unfit):
            self._log.warning(f"nothing of {topic} is received by {text}")
        self._unfit = unfit


class Strangers:
    """Who publishes on a topic that should be ours.

    Args:
        node: Publishes there itself, once.
        topic: Its full name.
        allowed: Names of nodes that may as well.
    """

    def __init__(self, node: Any, topic: str, allowed: Iterable[str] = ()) -> None:
        self._node, self._topic, self._allowed = node, topic, frozenset(allowed)
        self._nameless_before = False

    def look(self) -> str | None:
        """Who else publishes, for people; None where nobody does."""
        infos = self._node.get_publishers_info_by_topic(self._topic)
        names = [(info.node_namespace, info.node_name) for info in infos]
        ours = (self._node.get_namespace(), self._node.get_name())
        if ours in names:
            names.remove(ours)
        strangers = {name for name in names if name[1] not in self._allowed}
        nameless = {name for name in strangers if name[1] == _NOT_KNOWN_YET}
        # The name of a node may come a moment later than its publishers: whoever has none yet has one second to say it.
        if not self._nameless_before:
            strangers -= nameless
        self._nameless_before = bool(nameless)
        if not strangers:
            return None
        who = ", ".join(sorted(f"{namespace.rstrip('/')}/{name}" for namespace, name in strangers))
        return f"{who} also publishes on {self._topic}: only one may command the base"


def _misfit(info: Any, kind: Any, offered: Any, requested: Any) -> str | None:
    """Why an endpoint and ours exchange nothing, with its node's name; None where they do."""
    node = f"{info.node_namespace.rstrip('/')}/{info.node_name}"
    if info.topic_type != (ours := f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"):
        return f"{node}: its type is {info.topic_type}, not {ours}"
    compatibility, reason = qos_check_compatible(_as_set(offered), _as_set(requested))
    if compatibility == QoSCompatibility.ERROR:
        return f"{node}: its QoS does not fit: {reason.strip(' ;')}"
    return None


def _as_set(profile: Any) -> Any:
    """The graph reports as infinite what nobody set, and the check takes that for a request."""
    for name in ("deadline", "liveliness_lease_duration"):
        if getattr(profile, name) == Infinite:
            setattr(profile, name, Duration())
    return profile
