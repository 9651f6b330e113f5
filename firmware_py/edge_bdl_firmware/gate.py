"""What may pass to the wheels: the policy, the newest command, and the people around.

Pure of I/O and of clocks, like the policy in it. Whatever happens, an assessment, a command, a person or a tick, is one
step of the policy at the time it is told, and every step says what may pass from now on. So evidence that went late
between two ticks holds back a command that comes then, and bad news need not wait for a tick.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from edge_bdl.policy import Decision, Evidence, Level, Policy, limit_command
from edge_bdl.policy_spec import PolicySpec
from edge_bdl_firmware.evidence import evidence_of_assessment
from edge_bdl_firmware.messages import Assessment, Command, Human, Snapshot, Step

_HELD_UP_S = 0.25  # ticks come ten times a second at least: after such a gap nobody knows how old is what waited
_SETTLE_S = 0.1  # time to take what waited
_PASS_ON_GAP_S = 0.01  # commands that come faster than this wait for the next tick: a burst must not keep the gate busy

_Trigger = Literal["tick", "assessment", "command", "human"]


class GateConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Times and factors of the gate itself; those of the policy are in its `PolicySpec`.

    Attributes:
        command_timeout_s: A command older than this is none.
        standstill_s: After so long a zero output the robot is taken to stand still.
        bypass_factor: Largest share of a command that passes while a human set the bypass.
        bypass_limit_s: The bypass ends by itself after this time.
    """

    command_timeout_s: float = 0.5
    standstill_s: float = 1.0
    bypass_factor: float = 0.3
    bypass_limit_s: float = 30.0

    def __post_init__(self) -> None:
        for name, value, highest in (
            ("command_timeout_s", self.command_timeout_s, 1.0),
            ("standstill_s", self.standstill_s, 10.0),
            ("bypass_factor", self.bypass_factor, 0.5),
            ("bypass_limit_s", self.bypass_limit_s, 120.0),
        ):
            if not 0.0 < value <= highest:
                raise ValueError(f"{name} is above 0 and at most {highest:g}, got {value}")


_DEFAULTS = GateConfig()


class Gate:
    """One robot's gate.

    Args:
        spec: Thresholds and times of the policy, from the bundle's manifest.
        bundle: Digest of the bundle whose assessments count.
        boot: Of this machine; the seconds of another one cannot be compared.
        config: The gate's own times.
        stopped: Why to come up in a latched STOP.
        axes: How many numbers an output has before the first command.
    """

    def __init__(
        self,
        spec: PolicySpec,
        bundle: str,
        boot: str,
        config: GateConfig = _DEFAULTS,
        *,
        stopped: str | None = None,
        axes: int = 6,
    ) -> None:
        self.config = config
        self._policy = Policy(spec, stopped=stopped)
        self._bundle, self._boot = bundle, boot
        self._future_tolerance_s = spec.config.future_tolerance_s
        self._objections: dict[str, str] = {}
        self._steps = 0
        self._stepped_s: float | None = None
        self._held_up_s = -math.inf  # when it was last noticed
        self._received_s = -math.inf  # of the newest assessed frame
        self._command: tuple[float, ...] | None = None
        self._command_s = -math.inf
        self._passed_on_s = -math.inf
        self._zeros = (0.0,) * axes
        self._kept: tuple[float, ...] = ()
        self._zero_since_s: float | None = None
        self._human_in_control = False
        self._bypass_since_s: float | None = None

    @property
    def level(self) -> Level:
        """Where the last step ended."""
        return self._policy.level

    @property
    def latched(self) -> bool:
        """Whether a restart must come up stopped."""
        return self._policy.latched

    @property
    def clear(self) -> bool:
        """Whether the newest evidence is valid, fresh and below every SLOW threshold."""
        return self._policy.clear

    @property
    def human_in_control(self) -> bool:
        """Whether a human drives."""
        return self._human_in_control

    def object(self, name: str, reason: str | None) -> None:
        """Raise, or with None withdraw, an objection of the surroundings: while there is one, no evidence is valid.

        Args:
            name: Whose objection it is.
            reason: For people.
        """
        if reason is None:
            self._objections.pop(name, None)
        else:
            self._objections[name] = reason

    def reconfigure(self, spec: PolicySpec, config: GateConfig) -> None:
        """Take other times: NOMINAL and SLOW fall back to HOLD, HANDOFF and STOP stay, a bypass ends."""
        self.config = config
        self._future_tolerance_s = spec.config.future_tolerance_s
        self._bypass_since_s = None
        self._policy.reconfigure(spec)

    def snapshot(self, now_s: float) -> Snapshot:
        """All that the policy remembers after the last step."""
        return Snapshot(now_s=now_s, state=self._policy.snapshot())

    def tick(self, now_s: float, late_ms: float = 0.0) -> Step:
        """Time passed.

        Args:
            now_s: CLOCK_MONOTONIC, as in all that follows.
            late_ms: How much later than planned this tick comes.
        """
        return self._step("tick", now_s, late_ms=late_ms)

    def assess(self, now_s: float, assessment: Assessment) -> Step:
        """An assessment came."""
        fault = self._fault_of(assessment)
        # One from far ahead must not make all that follow it look old; one that may count must not count twice.
        self._received_s = max(self._received_s, min(assessment.received_s, now_s + self._future_tolerance_s))
        evidence = (
            evidence_of_assessment(assessment, now_s - assessment.received_s) if fault is None else _invalid(fault)
        )
        return self._step("assessment", now_s, evidence, fault=fault, sequence=assessment.sequence)

    def refuse(self, now_s: float, fault: str) -> Step:
        """Something came that should be an assessment and is none.

        Args:
            now_s: CLOCK_MONOTONIC.
            fault: What is wrong with it.
        """
        return self._step("assessment", now_s, _invalid(fault), fault=fault)

    def command(self, now_s: float, command: Command) -> Step | None:
        """A command came. One that is not finite or empty counts as none, and none is left of those before it.

        Returns:
            None where another passed on a moment ago: the next tick sends this one. Or where the process was held up
            until just now: commands that waited meanwhile look new and are not, so they are passed over.
        """
        self._notice(now_s)
        if 0.0 <= now_s - self._held_up_s < _SETTLE_S:
            return None
        valid = len(command.axes) > 0 and all(map(math.isfinite, (*command.axes, *command.kept)))
        self._command = command.axes if valid else None
        self._kept = command.kept if valid else self._kept
        self._zeros = (0.0,) * len(command.axes) or self._zeros
        self._command_s = now_s
        if valid and 0.0 <= now_s - self._passed_on_s < _PASS_ON_GAP_S:
            return None
        self._passed_on_s = now_s
        return self._step("command", now_s)

    def human(self, now_s: float, human: Human) -> Step:
        """A person did something."""
        if human.act == "take_control":
            self._human_in_control = True
        elif human.act == "release_control":
            self._human_in_control = False
        elif human.act == "set_bypass" and not self._human_in_control:
            self._bypass_since_s = now_s
        if human.act in ("end_bypass", "take_control"):
            self._bypass_since_s = None
        return self._step("human", now_s, acknowledged=human.act == "acknowledge")

    def _fault_of(self, assessment: Assessment) -> str | None:
        """Why an assessment cannot be what it should be, whatever it says."""
        if assessment.bundle != self._bundle:
            return f"assessed by the bundle {assessment.bundle[:12]}, this gate has {self._bundle[:12]}"
        if assessment.boot_id != self._boot:
            return "assessed on another machine, whose clock says nothing here"
        if not assessment.received_s > self._received_s:
            return "an assessment of the same frame, or of an older one, came again"
        return None

    def _step(
        self,
        trigger: _Trigger,
        now_s: float,
        evidence: Evidence | None = None,
        *,
        fault: str | None = None,
        sequence: int | None = None,
        acknowledged: bool = False,
        late_ms: float = 0.0,
    ) -> Step:
        self._notice(now_s)
        if self._objections:
            fault = next(iter(self._objections.values()))
            evidence = _invalid(fault)
        standstill = self._zero_since_s is not None and now_s - self._zero_since_s >= self.config.standstill_s
        decision = self._policy.step(
            now_s,
            evidence,
            acknowledged=acknowledged,
            human_in_control=self._human_in_control,
            standstill=standstill,
        )
        bypass = self._bypassed(now_s)
        command = self._fresh_command(now_s)
        output = self._zeros if command is None else limit_command(command, self._limit(decision, bypass))
        # Where a human drives it is not our zeros that the robot follows.
        if any(output) or self._human_in_control:
            self._zero_since_s = None
        elif self._zero_since_s is None:
            self._zero_since_s = now_s
        self._steps += 1
        return Step(
            sequence=self._steps - 1,
            now_s=now_s,
            trigger=trigger,
            assessment=sequence,
            age_s=0.0 if evidence is None else evidence.age_s,
            fault=fault,
            acknowledged=acknowledged,
            human_in_control=self._human_in_control,
            standstill=standstill,
            bypass=bypass,
            level=decision.level.value,
            speed_factor=decision.speed_factor,
            reason=decision.reason,
            command=command,
            output=output,
            kept=self._kept,
            late_ms=late_ms,
        )

    def _notice(self, now_s: float) -> None:
        """Notice whether the process was held up since the last step: suspended, starved, or stuck."""
        if self._stepped_s is not None and now_s - self._stepped_s > _HELD_UP_S:
            self._command, self._held_up_s = None, now_s
        self._stepped_s = now_s

    def _fresh_command(self, now_s: float) -> tuple[float, ...] | None:
        fresh = 0.0 <= now_s - self._command_s <= self.config.command_timeout_s
        return self._command if fresh else None

    def _bypassed(self, now_s: float) -> bool:
        since_s = self._bypass_since_s
        if since_s is not None and not 0.0 <= now_s - since_s <= self.config.bypass_limit_s:
            self._bypass_since_s = None
        return self._bypass_since_s is not None

    def _limit(self, decision: Decision, bypass: bool) -> Decision:
        return Decision(decision.level, self.config.bypass_factor, "bypass") if bypass else decision


def _invalid(fault: str) -> Evidence:
    return Evidence(scores={}, samples=0, fault=fault)
