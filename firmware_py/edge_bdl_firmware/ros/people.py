"""What people ask of the gate: services that say whether it was done, and why not."""

from __future__ import annotations

from typing import Any

from std_srvs.srv import SetBool, Trigger

from edge_bdl.policy import Level
from edge_bdl_firmware.gate_process import GateProcess
from edge_bdl_firmware.messages import Human
from edge_bdl_firmware.ros import topics

_ASKING = (Level.HANDOFF, Level.STOP)


class People:
    """The services of one gate.

    Args:
        node: Offers them.
        process: Is told.
    """

    def __init__(self, node: Any, process: GateProcess) -> None:
        self._process = process
        node.create_service(Trigger, topics.ACKNOWLEDGE, self._acknowledge)
        node.create_service(SetBool, topics.TAKE_CONTROL, self._take_control)
        node.create_service(SetBool, topics.SET_BYPASS, self._set_bypass)

    def _acknowledge(self, request: Any, response: Any) -> Any:
        gate = self._process.gate
        before = gate.level
        step = self._process.human(Human(act="acknowledge"))
        response.success = before in _ASKING and gate.level not in _ASKING
        if response.success:
            response.message = f"{before.value} is left: {step.level}"
        elif before not in _ASKING:
            response.message = f"there is nothing to acknowledge in {before.value}"
        elif gate.human_in_control:
            response.message = "a human has control: give it back"
        elif not gate.clear:
            response.message = f"conditions are not clear: {step.reason}"
        else:
            response.message = f"the robot has not stood still for {gate.config.standstill_s:g} s yet"
        return response

    def _take_control(self, request: Any, response: Any) -> Any:
        had = self._process.gate.human_in_control
        step = self._process.human(Human(act="take_control" if request.data else "release_control"))
        response.success = step.human_in_control == request.data
        if had == request.data:
            response.message = "a human already has control" if had else "no human had control"
        else:
            response.message = f"{'a human has control' if request.data else 'given back'}: {step.level}: {step.reason}"
        return response

    def _set_bypass(self, request: Any, response: Any) -> Any:
        gate = self._process.gate
        if request.data and gate.human_in_control:
            response.success, response.message = False, "a human has control: give it back first"
            return response
        step = self._process.human(Human(act="set_bypass" if request.data else "end_bypass"))
        response.success = step.bypass == request.data
        if step.bypass:
            config = gate.config
            response.message = f"up to {config.bypass_factor:g} of a command passes for {config.bypass_limit_s:g} s"
        else:
            response.message = f"no bypass: {step.level}: {step.reason}"
        return response
