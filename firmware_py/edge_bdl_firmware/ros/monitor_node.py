"""The monitor as a ROS 2 lifecycle node: images in, assessments out.

The executor's thread only puts a frame into the slot; the worker infers and publishes. A publisher may be used by any
thread while nobody destroys it, and a lifecycle publisher that is not active drops what it is given without a word:
so the worker is stopped before either happens, and ``/diagnostics``, which is no managed publisher, tells of it.
"""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import msgspec
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSPolicyKind
from rclpy.qos_overriding_options import QoSOverridingOptions

from edge_bdl.bundle import Bundle
from edge_bdl.errors import EdgeBdlError, InputError
from edge_bdl.runtime import Runtime
from edge_bdl_firmware.frames.checks import FrameChecks
from edge_bdl_firmware.local.channel import socket_folder
from edge_bdl_firmware.local.monitor import opening_of
from edge_bdl_firmware.messages import Assessment, Opening
from edge_bdl_firmware.monitor import Monitor
from edge_bdl_firmware.ros import topics
from edge_bdl_firmware.ros.bundle import open_bundle
from edge_bdl_firmware.ros.conversions import diagnostics_of, diagnostics_of_assessment
from edge_bdl_firmware.ros.log import NodeLog
from edge_bdl_firmware.ros.monitor_parameters import (
    CONFIGURED,
    START,
    checks_of,
    deadline_ms_of,
    runtime_of,
    transport_of,
)
from edge_bdl_firmware.ros.monitor_status import Health, Window, status_of_rest, status_of_window
from edge_bdl_firmware.ros.neighbours import NO_PUBLISHER_EVENTS, NO_SUBSCRIPTION_EVENTS, Publishers, Subscribers
from edge_bdl_firmware.ros.parameters import Value, declare, values_of, watch
from edge_bdl_firmware.telemetry import Telemetry

# Best effort loses large images where DDS lacks memory; who has a reliable camera may ask for that, as usual in ROS.
_RELIABILITY = QoSOverridingOptions((QoSPolicyKind.RELIABILITY,))
_LOOK_PERIOD_S, _TELL_PERIOD_S = 0.1, 1.0
_SHOWN = ("engine", "engine_version", "samples", "deadline_ms")


class MonitorNode(LifecycleNode):  # type: ignore[misc]
    """``edge_bdl_monitor``.

    Args:
        bundle: Folder of the bundle; None: the parameter says it.
        open_runtime: As `Runtime.open`; a fault campaign opens runtimes that fail.

    Raises:
        EdgeBdlError: With autostart: a parameter makes no sense, the bundle is not sound, or the engine failed.
    """

    def __init__(self, bundle: Path | None = None, open_runtime: Callable[..., Runtime] = Runtime.open) -> None:
        given = [] if bundle is None else [Parameter("bundle", value=str(bundle))]
        super().__init__(topics.MONITOR_NODE, parameter_overrides=given)
        self._log = NodeLog(self)
        self._open_runtime = open_runtime
        declare(self, (*START, *CONFIGURED))
        watch(self, CONFIGURED, self._check, lambda: None)
        self._hardware_id = socket.gethostname()
        self._diagnostics = self.create_publisher(
            DiagnosticArray, topics.DIAGNOSTICS.name, topics.DIAGNOSTICS.qos, event_callbacks=NO_PUBLISHER_EVENTS
        )
        # Since it was configured:
        self._monitor: Monitor | None = None
        self._telemetry: Telemetry | None = None
        self._assessments: Any = None
        self._facts: dict[str, str] = {}
        # Since it was activated:
        self._health: Health | None = None
        self._images: Any = None
        self._fault: str | None = None
        self._refusal: Exception | None = None
        self._rounds = self._worked = 0
        self.parts = {"loop": lambda: self._rounds, "worker": lambda: self._worked}
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_LOOK_PERIOD_S, self._look, clock=steady)
        self.create_timer(_TELL_PERIOD_S, self._tell, clock=steady)
        if values_of(self, START)["autostart"]:
            self._autostart()

    def stop(self) -> None:
        """Assess nothing more."""
        self._end_images()
        self._log.finish()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the bundle and its engine."""
        return self._attempt("configure", self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Warm the engine up, then take images."""
        return self._attempt("activate", lambda: self._activate(state))

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take no more images and say nothing more."""
        self._end_images()
        self._log.info("deactivated: no frame is assessed")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give engine and bundle back."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """From any state."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition raised: back to the beginning."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _autostart(self) -> None:
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                raise self._refusal or InputError("the monitor cannot be started from the state that it is in")

    def _attempt(self, name: str, act: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            act()
        except EdgeBdlError as error:
            self._refusal = error
            self._log.warning(f"cannot {name}: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception as error:  # rclpy would swallow it
            self._refusal = error
            self._log.warning(f"cannot {name}: {traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    def _check(self, values: dict[str, Value]) -> None:
        if self._monitor is not None:
            raise InputError("the monitor is configured already: clean it up first, or start it with this parameter")
        transport_of(values)
        checks_of(values)

    def _configure(self) -> None:
        values = values_of(self, CONFIGURED)
        self._transport = transport_of(values)
        checks = FrameChecks(checks_of(values))
        bundle = open_bundle(values, "ros-monitor", Bundle.open)
        runtime = runtime_of(values, bundle, self._open_runtime)
        opening = self._opening(bundle, runtime, values)
        sockets = str(values_of(self, START)["sockets"])
        telemetry = Telemetry(Path(sockets) if sockets else socket_folder(), opening)
        self._monitor = Monitor(
            runtime,
            checks,
            self._publish,
            bundle=bundle.digest,
            camera_clock_ns=lambda: int(self.get_clock().now().nanoseconds),
            record=telemetry.record,
            deadline_ms=deadline_ms_of(values),
        )
        self._telemetry = telemetry
        self._facts = {name: opening.parameters[name] for name in _SHOWN} | {"bundle": opening.bundle}
        self._assessments = self.create_lifecycle_publisher(
            DiagnosticArray,
            topics.ASSESSMENT.name,
            topics.ASSESSMENT.qos,
            event_callbacks=NO_PUBLISHER_EVENTS,
        )
        self._audience = Subscribers(self, self._log, self._assessments)

    def _opening(self, bundle: Bundle, runtime: Runtime, values: dict[str, Value]) -> Opening:
        opening = opening_of(bundle, runtime, deadline_ms_of(values))
        parameters = {name: str(value) for name, value in values.items()} | opening.parameters
        return msgspec.structs.replace(opening, parameters=parameters)

    def _activate(self, state: LifecycleState) -> None:
        assert self._monitor is not None
        self._monitor.start()
        super().on_activate(state)
        self._health, self._fault, self._sequence = Health(self._monitor, time.monotonic()), None, 0
        message, topic, _ = self._transport
        self._images = self.create_subscription(
            message,
            topic.name,
            self._on_image,
            copy(topic.qos),  # which the override writes to
            event_callbacks=NO_SUBSCRIPTION_EVENTS,
            qos_overriding_options=_RELIABILITY,
        )
        self._cameras = Publishers(self, self._log, self._images)
        self._log.info(f"assessing {self._cameras.topic}: {self._facts['engine']}, {self._facts['samples']} samples")

    def _on_image(self, message: Any) -> None:
        assert self._monitor is not None
        frame = self._transport.frame_of(message, self._sequence, time.monotonic())
        self._sequence += 1
        self._monitor.offer(frame)

    def _publish(self, assessment: Assessment) -> None:
        """Called by the worker."""
        self._assessments.publish(diagnostics_of_assessment(assessment))
        health, telemetry = self._health, self._telemetry
        if health is not None and telemetry is not None:
            health.hear(assessment)
            telemetry.tell(assessment)

    def _look(self) -> None:
        """Ten times a second: does the worker live?

        Raises:
            RuntimeError: It has died, which ends the process: a new one is the only remedy.
        """
        now_s = time.monotonic()
        self._rounds += 1
        self._worked += self._health is None or self._health.progressed(now_s)
        if self._telemetry is not None:
            self._telemetry.refresh(now_s)

    def _tell(self) -> None:
        """Once a second: how is it going?"""
        if self._health is None:
            status = status_of_rest(self._state_machine.current_state[1], self._facts, self._hardware_id)
        else:
            window = self._health.window(time.monotonic())
            self._log_fault(window)
            self._cameras.look()
            self._audience.look()
            facts = {"cameras": str(self._cameras.count), **self._facts}
            status = status_of_window(window, self._cameras.topic, facts, self._hardware_id)
        self._diagnostics.publish(diagnostics_of(status, self.get_clock().now().to_msg()))

    def _log_fault(self, window: Window) -> None:
        """Faults are logged when they begin and when they end, not with every frame."""
        if not window.assessments:
            return
        before, self._fault = self._fault, window.assessments[-1].fault
        if self._fault is not None and before is None:
            self._log.warning(f"faulty frames: {self._fault}")
        elif self._fault is None and before is not None:
            self._log.info("frames are good again")

    def _end_images(self) -> None:
        if self._images is not None:
            self.destroy_subscription(self._images)
            self._images = None
        if self._monitor is not None:
            self._monitor.stop()
        self._health = None

    def _release(self) -> None:
        self._end_images()
        self._monitor = self._telemetry = None
        self._facts = {}
        if self._assessments is not None:
            self.destroy_lifecycle_publisher(self._assessments)
            self._assessments = None
