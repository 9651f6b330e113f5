"""Which QoS fits: a table of the rules, and the real middleware on the same pairs."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool

from edge_bdl_firmware.ros import topics
from edge_bdl_firmware.ros.qos_match import why_apart

BEST_EFFORT = {"reliability": ReliabilityPolicy.BEST_EFFORT}
TRANSIENT = {"durability": DurabilityPolicy.TRANSIENT_LOCAL}
MANUAL = {"liveliness": LivelinessPolicy.MANUAL_BY_TOPIC}


def seconds(**times_s: float) -> dict[str, Duration]:
    return {name: Duration(seconds=time_s) for name, time_s in times_s.items()}


def qos(**policies: Any) -> QoSProfile:
    return QoSProfile(**{"depth": 1, "liveliness": LivelinessPolicy.AUTOMATIC, **policies})


# What is offered, what is asked for, and the word that must be said where they do not fit.
TABLE = [
    ({}, {}, None),
    ({}, BEST_EFFORT, None),
    (BEST_EFFORT, BEST_EFFORT, None),
    (BEST_EFFORT, {}, "reliable"),
    (TRANSIENT, {}, None),
    ({}, TRANSIENT, "transient local"),
    (seconds(deadline=0.2), {}, None),
    (seconds(deadline=0.2), seconds(deadline=0.5), None),
    ({}, seconds(deadline=0.5), "deadline"),
    (seconds(deadline=0.5), seconds(deadline=0.2), "deadline"),
    (MANUAL, {}, None),
    ({}, MANUAL, "liveliness"),
    (seconds(liveliness_lease_duration=0.5), seconds(liveliness_lease_duration=1.0), None),
    (seconds(liveliness_lease_duration=1.0), seconds(liveliness_lease_duration=0.5), "lease"),
    ({}, seconds(liveliness_lease_duration=0.5), "lease"),
    (BEST_EFFORT, TRANSIENT, "transient local"),
]
PAIRS = [(qos(**offered), qos(**asked), word) for offered, asked, word in TABLE]


@pytest.mark.parametrize(("offered", "asked", "word"), PAIRS)
def test_the_rules(offered: QoSProfile, asked: QoSProfile, word: str | None) -> None:
    reason = why_apart(offered, asked)
    assert (reason is None) == (word is None)
    assert word is None or word in str(reason)
    assert "ERROR" not in str(reason)


def test_our_own_ends_fit() -> None:
    assert why_apart(topics.HEARTBEAT.qos, topics.HEARTBEAT_IN.qos) is None
    assert why_apart(topics.ASSESSMENT.qos, topics.ASSESSMENT_IN.qos) is None
    assert why_apart(qos(), topics.IMAGE.qos) is None
    assert why_apart(qos(**BEST_EFFORT), topics.IMAGE.qos) is None


def test_the_middleware_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node(f"qos_{os.getpid()}", context=context)
    try:
        connected = {}
        for index, (offered, asked, word) in enumerate(PAIRS):
            name = f"qos_{os.getpid()}/pair_{index}"
            publisher = node.create_publisher(Bool, name, offered)
            node.create_subscription(Bool, name, lambda message: None, asked)
            connected[publisher] = word is None
        until_s = time.monotonic() + 20.0
        while any(fits and not publisher.get_subscription_count() for publisher, fits in connected.items()):
            assert time.monotonic() < until_s
            time.sleep(0.05)
        # All were made before the last of those that fit was connected; what is not connected by now is not to be.
        assert [publisher.get_subscription_count() for publisher in connected] == list(map(int, connected.values()))
        infos = [node.get_publishers_info_by_topic(publisher.topic_name) for publisher in connected]
        asked_for = [node.get_subscriptions_info_by_topic(publisher.topic_name) for publisher in connected]
        as_seen = [
            why_apart(one[0].qos_profile, two[0].qos_profile) is None for one, two in zip(infos, asked_for, strict=True)
        ]
        assert as_seen == list(connected.values()), "the graph tells the QoS as the doctor needs it"
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
