"""Watches a live system for a few seconds: the doctor's eyes. It publishes nothing."""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import qos_profile_best_available

from edge_bdl_firmware.doctor import observation as seen
from edge_bdl_firmware.doctor.observation import Drive, Endpoint, Mismatch, Observation, Stream, Topic
from edge_bdl_firmware.ros import topics
from edge_bdl_firmware.ros.conversions import nanoseconds_of
from edge_bdl_firmware.ros.qos_match import why_apart

_ODOMETRY = "nav_msgs/msg/Odometry"
_IMAGES = (seen.IMAGE, seen.IMAGE_COMPRESSED)
_ASKED = {
    seen.GATE_NODE: ("use_sim_time", "camera_rate_hz", "assessment_timeout_s", "command_timeout_s"),
    seen.MONITOR_NODE: ("use_sim_time",),
    seen.GUARD_NODE: ("use_sim_time",),
}
_ATTACH_PERIOD_S, _SPIN_S = 0.2, 0.05


def message_class(type_name: str) -> Any:
    """The class of ``package/msg/Name``; None where it is not installed."""
    package, _, name = type_name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        return None


class DoctorNode(Node):  # type: ignore[misc]
    """Listens to everything that is of interest as soon as somebody publishes it."""

    def __init__(self) -> None:
        super().__init__(f"edge_bdl_doctor_{os.getpid()}", start_parameter_services=False, enable_rosout=False)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self._full = {name: self.resolve_topic_name(name) for name in seen.WATCHED}
        self._times: dict[str, list[float]] = {}
        self._parameter_clients = {
            name: AsyncParameterClient(self, f"{self.get_namespace().rstrip('/')}/{name}") for name in _ASKED
        }
        self._answers: dict[str, Any] = {}
        self._ages_s: list[tuple[float, float]] = []  # on the system's clock, on /clock
        self._clock_ns: int | None = None
        self._state: dict[str, str] | None = None
        self._lock: bool | None = None
        self._on_message: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(_IMAGES, self._on_image),
            seen.CLOCK: self._on_clock,
            seen.STATE: self._on_state,
            seen.LOCK: self._on_lock,
        }

    def spin(self, until_s: float, interrupted: Callable[[], bool], enough: Callable[[], bool] = lambda: False) -> None:
        """Take what comes until this time on CLOCK_MONOTONIC, or until it is enough.

        Raises:
            KeyboardInterrupt: A signal came.
        """
        while (now_s := time.monotonic()) < until_s and not enough():
            if interrupted():
                raise KeyboardInterrupt
            self._executor.spin_once(min(_SPIN_S, until_s - now_s))

    def watch(self, duration_s: float, interrupted: Callable[[], bool]) -> None:
        """Listen and ask for so long.

        Raises:
            KeyboardInterrupt: A signal came.
        """
        end_s = time.monotonic() + duration_s
        while (now_s := time.monotonic()) < end_s:
            self._attach()
            self.spin(min(now_s + _ATTACH_PERIOD_S, end_s), interrupted)

    def observed(self, base_topic: str | None = None, drive: Drive | None = None) -> Observation:
        """All that was seen so far, and who is connected with whom now.

        Args:
            base_topic: What the base listens to, where the integrator said so.
            drive: What was driven.
        """
        until_s = time.monotonic()
        types = dict(self.get_topic_names_and_types())
        velocities = {name for name, kinds in types.items() if set(kinds) & set(seen.VELOCITIES)}
        odometers = (name for name, kinds in types.items() if _ODOMETRY in kinds)
        parameters = {name: answer for name in _ASKED if (answer := self._answer(name)) is not None}
        simulated = bool(parameters.get(seen.MONITOR_NODE, {}).get("use_sim_time"))
        return Observation(
            topics={name: self._topic(full, until_s, name) for name, full in self._full.items()},
            velocities={name: self._topic(name, until_s) for name in sorted(velocities)},
            odometers=frozenset(
                publisher.node for name in odometers for publisher in self._topic(name, 0.0).publishers
            ),
            base_topic=None if base_topic is None else self.resolve_topic_name(base_topic),
            parameters=parameters,
            stamp_ages_s=tuple(ages_s[simulated] for ages_s in self._ages_s),
            state=self._state,
            lock=self._lock,
            drive=drive,
        )

    def close(self) -> None:
        """End."""
        self._executor.shutdown(0.0)
        self.destroy_node()

    def _attach(self) -> None:
        """Listen to what has a publisher by now, ask who is there by now."""
        for name, full in self._full.items():
            publishers = self.get_publishers_info_by_topic(full) if name not in self._times else ()
            kind = message_class(publishers[0].topic_type) if publishers else None
            if kind is not None:
                self._times[name] = []
                # The doctor sees images as the monitor does, and the rest as well as it is offered.
                qos = topics.IMAGE.qos if name in _IMAGES else qos_profile_best_available
                self.create_subscription(kind, full, partial(self._on_any, name, kind), qos)
        for name, client in self._parameter_clients.items():
            if name not in self._answers and client.services_are_ready():
                self._answers[name] = client.get_parameters(list(_ASKED[name]))

    def _on_any(self, name: str, kind: Any, message: Any) -> None:
        self._times[name].append(time.monotonic())
        if name in self._on_message:
            self._on_message[name](message)

    def _on_image(self, message: Any) -> None:
        stamp_ns = nanoseconds_of(message.header.stamp) if hasattr(message, "header") else 0
        clocks_ns = (time.time_ns(), self._clock_ns)
        system_s, simulated_s = (
            (now_ns - stamp_ns) * 1e-9 if stamp_ns and now_ns is not None else math.nan for now_ns in clocks_ns
        )
        self._ages_s.append((system_s, simulated_s))

    def _on_clock(self, message: Any) -> None:
        self._clock_ns = nanoseconds_of(message.clock) if hasattr(message, "clock") else None

    def _on_state(self, message: Any) -> None:
        self._state = {entry.key: entry.value for entry in getattr(message, "values", ())}

    def _on_lock(self, message: Any) -> None:
        self._lock = bool(getattr(message, "data", True))

    def _answer(self, name: str) -> dict[str, object] | None:
        future = self._answers.get(name)
        if future is None or not future.done() or future.result() is None:
            return None
        return dict(zip(_ASKED[name], map(parameter_value_to_python, future.result().values), strict=False))

    def _topic(self, full: str, until_s: float, watched: str = "") -> Topic:
        mine = (self.get_namespace(), self.get_name())
        publishers, subscribers = (
            [info for info in infos if (info.node_namespace, info.node_name) != mine]
            for infos in (self.get_publishers_info_by_topic(full), self.get_subscriptions_info_by_topic(full))
        )
        mismatches = tuple(
            Mismatch(_node(publisher), _node(subscriber), reason)
            for publisher in publishers
            for subscriber in subscribers
            if (reason := why_apart(publisher.qos_profile, subscriber.qos_profile)) is not None
        )
        times_s = self._times.get(watched)
        return Topic(
            full,
            tuple(Endpoint(_node(info), info.topic_type) for info in publishers),
            tuple(Endpoint(_node(info), info.topic_type) for info in subscribers),
            mismatches,
            None if times_s is None else Stream(tuple(times_s), until_s),
        )


def _node(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"
