"""A recording decided again: the recorded frames through the same network, its evidence through the same policy.

A recording is cut at its snapshots. Each piece starts from what the policy remembered then, so that one difference
does not make differences of all that follow; and where the scores come out the same to the bit, each piece must also
end with what the next snapshot says, which shows steps that are missing.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

import msgspec

from edge_bdl.errors import EdgeBdlError, InputError
from edge_bdl.policy import Policy
from edge_bdl.runtime import Runtime
from edge_bdl_firmware.evidence import evidence_of
from edge_bdl_firmware.frames.decode import decode_frame
from edge_bdl_firmware.messages import Assessment, Frame, Opening, Snapshot, Step
from edge_bdl_firmware.recorder.log_reader import Log, RecordingError

#: Relative. Another engine or processor may compute other last bits; another frame is far beyond this.
SCORE_TOLERANCE = 1e-3
#: Absolute, where the scores are not the same to the bit. What is, decides the same to the bit.
FACTOR_TOLERANCE = 1e-3

# More members than any bundle calibrates: a damaged recording must not ask for all memory.
_MOST_SAMPLES = 4096
# A deadline that is none, for the graphs that are run where there is one.
_NO_DEADLINE_MS = 1e9
_MOST_NOTES = 20
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")


class Outcome(msgspec.Struct, frozen=True):
    """What a step decided."""

    level: str
    speed_factor: float
    reason: str


class ScoreChange(msgspec.Struct, frozen=True):
    """A score of one frame, as recorded and as computed again; NaN where there is none."""

    sequence: int
    name: str
    recorded: float
    replayed: float

    @property
    def deviation(self) -> float:
        """The difference, relative to the larger one."""
        if self.recorded == self.replayed or (math.isnan(self.recorded) and math.isnan(self.replayed)):
            return 0.0
        deviation = abs(self.recorded - self.replayed) / max(abs(self.recorded), abs(self.replayed))
        return deviation if math.isfinite(deviation) else math.inf


class Difference(msgspec.Struct, frozen=True):
    """A step that comes out differently.

    Attributes:
        time_s: Since the recording's first message.
        recorded: As the gate decided.
        replayed: As it is decided now.
        score: What changed most in the newest evidence; None where nothing did.
    """

    time_s: float
    recorded: Outcome
    replayed: Outcome
    score: ScoreChange | None


class Report(msgspec.Struct, kw_only=True):
    """How a replay went.

    Attributes:
        steps: In the recording.
        compared: Of these, how many were decided again.
        different: Of these, how many came out differently.
        differences: The first of them.
        frames: Whose scores were computed again.
        frames_missing: Whose recorded scores had to be believed, because the recorder does not have the frame.
        deviations: Largest relative deviation of each score.
        deviating: Scores that deviate by more than ``SCORE_TOLERANCE``.
        contradictions: Snapshots that the steps before them do not lead to.
        not_replayed: What could not be, and why.
    """

    steps: int = 0
    compared: int = 0
    different: int = 0
    differences: list[Difference] = []
    frames: int = 0
    frames_missing: int = 0
    deviations: dict[str, float] = {}
    deviating: list[ScoreChange] = []
    contradictions: list[str] = []
    not_replayed: list[str] = []

    @property
    def identical(self) -> bool:
        """Whether everything that was compared came out the same, and something was."""
        looked = self.compared > 0 and (self.frames > 0 or self.frames_missing == 0)
        return looked and not (self.different or self.deviating or self.contradictions)


class _Again(msgspec.Struct, frozen=True):
    """An assessment, as recorded and as computed again."""

    recorded: Assessment
    replayed: Assessment

    @property
    def changes(self) -> Iterator[ScoreChange]:
        """All its scores."""
        recorded, replayed = self.recorded.scores, self.replayed.scores
        for name in recorded.keys() | replayed.keys():
            yield ScoreChange(self.recorded.sequence, name, recorded.get(name, math.nan), replayed.get(name, math.nan))

    @property
    def exact(self) -> bool:
        """Whether nothing changed at all."""
        return self.recorded.fault == self.replayed.fault and all(change.deviation == 0.0 for change in self.changes)

    @property
    def largest(self) -> ScoreChange | None:
        """The score that changed most."""
        changed = [change for change in self.changes if change.deviation > 0.0]
        return max(changed, key=lambda change: change.deviation, default=None)


def check_bundle(log: Log, digest: str) -> None:
    """See that a recording was made with this bundle and no other.

    Raises:
        RecordingError: It was not, or does not say.
    """
    used = {entry.message.bundle for entry in log.messages if isinstance(entry.message, Opening | Assessment)}
    if not used:
        raise RecordingError(f"{log.path} does not say with which bundle it was made: nothing in it can be replayed")
    others = sorted(used - {digest})
    if others:
        raise RecordingError(
            f"{log.path} was made with the bundle {', '.join(other[:12] for other in others)}, this one is "
            f"{digest[:12]}: name the bundle that drove"
        )


def replay(log: Log, runtime: Runtime, digest: str) -> Report:
    """Decide a recording again.

    Args:
        log: The recording.
        runtime: On the bundle that it was made with, on any engine.
        digest: Of that bundle.

    Raises:
        RecordingError: It was made with another bundle, is damaged, or has nothing to replay.
    """
    check_bundle(log, digest)
    report = Report()
    again = _infer(log, runtime, report)
    _Replay(log, Policy(runtime.manifest.policy), again, report).run()
    return report


def _infer(log: Log, runtime: Runtime, report: Report) -> list[_Again]:
    """All assessments again, from the recorded frames where they are there."""
    recorded = [entry.message for entry in log.messages if isinstance(entry.message, Assessment)]
    by_frame = {_key(assessment): number for number, assessment in enumerate(recorded)}
    again = [_Again(assessment, assessment) for assessment in recorded]
    anytime = _had_deadline(log)
    seen = set()
    for frame in log.frames():
        number = by_frame.get(_key(frame))
        if number is not None and number not in seen:
            seen.add(number)
            again[number] = _Again(recorded[number], _assess(frame, recorded[number], runtime, anytime=anytime))
    # An assessment without scores says why the monitor did not infer; there is nothing to compute again.
    scored = [number for number, assessment in enumerate(recorded) if assessment.scores]
    report.frames = sum(number in seen for number in scored)
    report.frames_missing = len(scored) - report.frames
    for number in scored:
        for change in again[number].changes:
            report.deviations[change.name] = max(report.deviations.get(change.name, 0.0), change.deviation)
            if change.deviation > SCORE_TOLERANCE:
                report.deviating.append(change)
    return again


def _assess(frame: Frame, recorded: Assessment, runtime: Runtime, *, anytime: bool) -> Assessment:
    """A frame through the very path that the monitor takes, with as many members as there were.

    The monitor's own checks of stamps and pixels rest on when the frame came, and are believed.
    """
    if not recorded.scores:
        return recorded
    spec = runtime.manifest.inputs[0]
    if not 0 < recorded.samples <= _MOST_SAMPLES:
        raise RecordingError(f"the assessment of frame {recorded.sequence} claims {recorded.samples} samples")
    try:
        pixels = decode_frame(frame, spec.shape, spec.dtype)
        deadline_ms = _NO_DEADLINE_MS if anytime else None
        evidence = runtime.predict(pixels, samples=recorded.samples, deadline_ms=deadline_ms).evidence()
    except EdgeBdlError as error:
        return msgspec.structs.replace(recorded, scores={}, samples=0, fault=recorded.fault or str(error))
    return msgspec.structs.replace(
        recorded, scores=dict(evidence.scores), samples=evidence.samples, fault=recorded.fault or evidence.fault
    )


def _key(of: Frame | Assessment) -> tuple[int, int, float]:
    return of.sequence, of.stamp_ns, of.received_s


def _had_deadline(log: Log) -> bool:
    """Whether the monitor ran trunk and head apart, even for all of the bank."""
    openings = (entry.message for entry in log.messages if isinstance(entry.message, Opening))
    return any(opening.process == "monitor" and opening.parameters.get("deadline_ms") for opening in openings)


class _Replay:
    """One pass through the recorded steps."""

    def __init__(self, log: Log, policy: Policy, again: list[_Again], report: Report) -> None:
        self._log, self._policy, self._report = log, policy, report
        self._start_ns = log.messages[0].time_ns
        self._by_sequence: Mapping[int, list[_Again]] = defaultdict(list)
        for assessment in again:
            self._by_sequence[assessment.recorded.sequence].append(assessment)
        self._ready = False
        self._exact = True
        self._newest: _Again | None = None
        self._gate: Opening | None = None
        self._sequence: int | None = None  # of the last step
        self._skipped, self._why = 0, "no snapshot of the policy before them"

    def run(self) -> None:
        """Go through all of it."""
        for time_ns, message in self._log.messages:
            time_s = (time_ns - self._start_ns) / 1e9
            if isinstance(message, Snapshot):
                self._resume(time_s, message)
            elif isinstance(message, Opening) and message.process == "gate":
                if self._gate is not None and message != self._gate:
                    self._pause("the gate was restarted or configured anew")
                    self._sequence = None
                self._gate = message
            elif isinstance(message, Step):
                self._report.steps += 1
                self._step(time_s, message)
        self._note_skipped()
        if self._report.compared == 0:
            raise RecordingError(
                f"{self._log.path} has nothing to replay: {self._report.steps} steps, and "
                f"{self._why if self._report.steps else 'so no decision'}"
            )

    def _resume(self, time_s: float, snapshot: Snapshot) -> None:
        if self._ready and self._exact and self._policy.snapshot() != snapshot.state:
            self._report.contradictions.append(
                f"{time_s:.3f} s: the steps before this snapshot do not lead to it; some are missing, or were changed"
            )
        self._note_skipped()
        try:
            self._policy.restore(snapshot.state)
        except InputError as error:
            self._pause(str(error))
            return
        self._ready = self._exact = True

    def _pause(self, why: str) -> None:
        """What follows cannot be replayed, up to the next snapshot."""
        self._ready, self._why = False, why

    def _note_skipped(self) -> None:
        if self._skipped:
            steps = "1 step" if self._skipped == 1 else f"{self._skipped} steps"
            self._report.not_replayed.append(f"{steps}: {self._why}")
        self._skipped = 0

    def _step(self, time_s: float, step: Step) -> None:
        before, self._sequence = self._sequence, step.sequence
        if self._ready and before is not None and step.sequence != before + 1:
            self._pause("steps are missing")
        again = self._assessment_of(step)
        if self._ready and step.fault is None and step.assessment is not None and again is None:
            self._pause(f"the assessment {step.assessment} is missing")
        if not self._ready:
            self._skipped += 1
            return
        if again is not None:
            self._newest = again
            self._exact = self._exact and again.exact
        decision = self._policy.step(
            step.now_s,
            evidence_of(step, None if again is None else again.replayed),
            acknowledged=step.acknowledged,
            human_in_control=step.human_in_control,
            standstill=step.standstill,
        )
        self._report.compared += 1
        recorded = Outcome(step.level, step.speed_factor, step.reason)
        replayed = Outcome(decision.level.value, decision.speed_factor, decision.reason)
        if not _same(recorded, replayed, exact=self._exact):
            self._report.different += 1
            if len(self._report.differences) < _MOST_NOTES:
                score = None if self._newest is None else self._newest.largest
                self._report.differences.append(Difference(time_s, recorded, replayed, score))

    def _assessment_of(self, step: Step) -> _Again | None:
        """The one whose frame was as old as the step says: a monitor that restarts counts from 0 again."""
        if step.assessment is None or step.fault is not None:
            return None
        received_s = step.now_s - step.age_s
        candidates = self._by_sequence.get(step.assessment, [])
        return min(candidates, key=lambda again: abs(again.recorded.received_s - received_s), default=None)


def _same(recorded: Outcome, replayed: Outcome, *, exact: bool) -> bool:
    if exact:
        return recorded == replayed
    return (
        recorded.level == replayed.level
        and abs(recorded.speed_factor - replayed.speed_factor) <= FACTOR_TOLERANCE
        # Scores are quoted in reasons.
        and _NUMBER.sub("#", recorded.reason) == _NUMBER.sub("#", replayed.reason)
    )
