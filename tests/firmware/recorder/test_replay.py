from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from mcap.writer import Writer

from edge_bdl import cli
from edge_bdl.bundle import Bundle
from edge_bdl.runtime import Runtime
from edge_bdl_firmware.messages import AnyMessage, Assessment, Frame, Opening, Snapshot, Step
from edge_bdl_firmware.recorder.log_reader import Log, RecordingError
from edge_bdl_firmware.recorder.replay import Report, ScoreChange, check_bundle, replay
from edge_bdl_firmware.recorder.ring import Received

BUNDLE = Path(__file__).parents[2] / "bundles" / "tiny_masks.ebdl"

Record = Callable[..., Path]
Drive = Sequence[Received]


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    bundle = Bundle.open(BUNDLE)
    return Runtime.open(bundle, bundle.manifest.engines[0])


@pytest.fixture(scope="module")
def again(runtime: Runtime) -> Callable[[Path], Report]:
    digest = Bundle.open(BUNDLE).digest
    return lambda path: replay(Log(path), runtime, digest)


def steps(drive: Drive) -> list[Step]:
    return [entry.message for entry in drive if isinstance(entry.message, Step)]


def only(wanted: AnyMessage, **fields: Any) -> Callable[[AnyMessage], AnyMessage]:
    return lambda message: msgspec.structs.replace(message, **fields) if message is wanted else message


def without(*unwanted: AnyMessage) -> Callable[[AnyMessage], AnyMessage | None]:
    return lambda message: None if any(message is one for one in unwanted) else message


def test_the_drive_visits_every_level_that_it_is_meant_to(drive: Drive) -> None:
    levels = [step.level for step in steps(drive)]
    visited = [level for before, level in zip([None, *levels], levels, strict=False) if level != before]
    assert visited == ["HOLD", "NOMINAL", "SLOW", "NOMINAL", "HOLD", "NOMINAL", "HANDOFF", "HOLD"]


def test_a_recorded_drive_comes_out_identical(drive: Drive, record: Record, again: Callable[[Path], Report]) -> None:
    report = again(record(drive))
    assert report.identical
    # The first step comes before the first snapshot.
    assert report.steps == len(steps(drive)) == report.compared + 1
    assert report.not_replayed == ["1 step: no snapshot of the policy before them"]
    assert report.frames == 98
    assert report.frames_missing == 0
    assert set(report.deviations) == {"epistemic", "total", "density"}
    assert set(report.deviations.values()) == {0.0}


@pytest.mark.parametrize(
    "fields",
    [{"level": "NOMINAL"}, {"speed_factor": 0.999}, {"reason": "all is well"}],
    ids=["level", "factor", "reason"],
)
def test_a_changed_decision_is_found_and_nothing_else_is(
    drive: Drive, record: Record, again: Callable[[Path], Report], fields: dict[str, Any]
) -> None:
    victim = next(step for step in steps(drive) if step.level == "SLOW")
    report = again(record(drive, only(victim, **fields)))
    assert not report.identical
    assert report.different == len(report.differences) == 1
    difference = report.differences[0]
    assert msgspec.structs.asdict(difference.recorded) == {
        "level": "SLOW", "speed_factor": victim.speed_factor, "reason": victim.reason, **fields
    }  # fmt: skip
    assert difference.replayed.level == "SLOW"
    assert difference.score is None
    assert report.contradictions == []


def test_a_changed_frame_is_found_with_the_score_that_made_the_difference(
    drive: Drive, record: Record, again: Callable[[Path], Report]
) -> None:
    frames = [entry.message for entry in drive if isinstance(entry.message, Frame)]
    strange = next(frame for frame in frames if frame.data[-48] == 255 and frame.data[-47] == 0)
    report = again(record(drive, only(frames[20], data=strange.data)))
    assert not report.identical
    assert {change.sequence for change in report.deviating} == {20}
    first = report.differences[0]
    assert (first.recorded.level, first.replayed.level) == ("NOMINAL", "HANDOFF")
    assert first.score is not None
    assert (first.score.sequence, first.score.name) == (20, "density")
    assert first.score.replayed > 100.0 > first.score.recorded
    # Every piece starts from what the policy remembered: one frame does not make differences of the whole drive.
    assert report.different < 60


def test_a_frame_whose_scores_change_but_no_decision_is_found(
    drive: Drive, record: Record, again: Callable[[Path], Report]
) -> None:
    frames = [entry.message for entry in drive if isinstance(entry.message, Frame)]
    data = bytearray(frames[20].data)
    data[100] ^= 0x40
    report = again(record(drive, only(frames[20], data=bytes(data))))
    assert report.different == 0
    assert {change.sequence for change in report.deviating} == {20}
    assert not report.identical


def test_a_frame_that_can_no_longer_be_decoded_is_found(
    drive: Drive, record: Record, again: Callable[[Path], Report]
) -> None:
    frames = [entry.message for entry in drive if isinstance(entry.message, Frame)]
    report = again(record(drive, only(frames[20], data=frames[20].data[:-1])))
    assert not report.identical
    assert report.differences[0].replayed.level == "HOLD"
    assert math.isnan(report.deviating[0].replayed)


def test_frames_that_the_recorder_lost_are_counted_and_their_scores_believed(
    drive: Drive, record: Record, again: Callable[[Path], Report]
) -> None:
    frames = [entry.message for entry in drive if isinstance(entry.message, Frame)]
    report = again(record(drive, without(*frames[10:15])))
    assert report.identical
    assert (report.frames, report.frames_missing) == (93, 5)


def test_without_a_single_frame_nothing_is_called_identical(
    drive: Drive, record: Record, again: Callable[[Path], Report]
) -> None:
    report = again(record([entry for entry in drive if not isinstance(entry.message, Frame)]))
    assert report.different == 0
    assert (report.frames, report.frames_missing) == (0, 98)
    assert not report.identical


def test_a_lost_assessment_skips_to_the_next_snapshot(
    drive: Drive, record: Record, again: Callable[[Path], Report]
) -> None:
    lost = next(
        entry.message for entry in drive if isinstance(entry.message, Assessment) and entry.message.sequence == 12
    )
    report = again(record(drive, without(lost)))
    assert report.identical
    # Three steps a frame from frame 12 to 19; the one of the next second comes before its snapshot.
    assert report.not_replayed[1:] == ["25 steps: the assessment 12 is missing"]
    assert report.compared == report.steps - 26


def test_a_lost_step_is_noticed_and_nothing_is_compared_up_to_the_next_snapshot(
    drive: Drive, record: Record, again: Callable[[Path], Report]
) -> None:
    quiet = [step for step in steps(drive) if step.level == "NOMINAL" and step.trigger == "assessment"]
    report = again(record(drive, without(quiet[2])))
    assert report.not_replayed[1].endswith("steps: steps are missing")
    assert report.identical


def test_a_step_that_was_taken_out_without_a_trace_contradicts_the_next_snapshot(
    drive: Drive, record: Record, again: Callable[[Path], Report]
) -> None:
    taken = next(step for step in steps(drive) if step.level == "NOMINAL" and step.trigger == "assessment")

    def closed_up(message: AnyMessage) -> AnyMessage | None:
        if message == taken:
            return None
        if isinstance(message, Step) and message.sequence > taken.sequence:
            return msgspec.structs.replace(message, sequence=message.sequence - 1)
        return message

    report = again(record(drive, closed_up))
    assert not report.identical


def test_a_gate_that_was_configured_anew_is_not_compared_up_to_its_next_snapshot(
    drive: Drive, record: Record, again: Callable[[Path], Report]
) -> None:
    openings = [
        entry.message for entry in drive if isinstance(entry.message, Opening) and entry.message.process == "gate"
    ]
    report = again(record(drive, only(openings[1], parameters={"slow_factor": "0.3"})))
    assert sum("configured anew" in line for line in report.not_replayed) == 2
    assert report.identical


def test_a_monitor_that_restarted_counts_from_zero_again(
    drive: Drive, record: Record, again: Callable[[Path], Report]
) -> None:
    def restarted(message: AnyMessage) -> AnyMessage:
        if isinstance(message, Frame | Assessment) and message.sequence >= 50:
            return msgspec.structs.replace(message, sequence=message.sequence - 50)
        if isinstance(message, Step) and message.assessment is not None and message.assessment >= 50:
            return msgspec.structs.replace(message, assessment=message.assessment - 50)
        return message

    report = again(record(drive, restarted))
    assert report.identical
    assert report.frames == 98


@pytest.mark.skipif(len(Bundle.open(BUNDLE).manifest.engines) < 2, reason="one engine only")
def test_another_engine_decides_the_same(drive: Drive, record: Record) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    bundle = Bundle.open(BUNDLE)
    report = replay(Log(record(drive)), Runtime.open(bundle, "tflite"), bundle.digest)
    assert report.identical
    assert 0.0 < max(report.deviations.values()) < 1e-5


def test_fewer_members_and_a_deadline_are_replayed_by_the_path_that_they_took(
    drive: Drive, record: Record, runtime: Runtime, again: Callable[[Path], Report]
) -> None:
    """The scores of trunk and head, which differ in their last bits from those of the fused graph."""
    frames = {entry.message.sequence: entry.message for entry in drive if isinstance(entry.message, Frame)}

    def anytime(message: AnyMessage) -> AnyMessage:
        if isinstance(message, Opening) and message.process == "monitor":
            return msgspec.structs.replace(message, parameters={"deadline_ms": "20.0"})
        if isinstance(message, Assessment) and message.scores:
            shown = np.frombuffer(frames[message.sequence].data, np.uint8).reshape(16, 16, 3)
            samples = (4, 16)[message.sequence % 2]
            prediction = runtime.predict(shown, samples=samples, deadline_ms=1e6)
            return msgspec.structs.replace(message, scores=prediction.scores(), samples=samples)
        return message

    report = again(record(drive, anytime))
    assert set(report.deviations.values()) == {0.0}


def test_the_deviation_of_scores_is_relative_and_nothing_is_unlike_anything() -> None:
    assert ScoreChange(0, "total", 2.0, 1.0).deviation == 0.5
    assert ScoreChange(0, "total", 0.0, 0.0).deviation == 0.0
    assert ScoreChange(0, "total", math.nan, math.nan).deviation == 0.0
    assert ScoreChange(0, "total", 1.0, math.nan).deviation == math.inf
    assert ScoreChange(0, "total", math.inf, 1.0).deviation == math.inf


# The verb.


def test_the_verb_says_that_all_is_identical(drive: Drive, record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(drive)
    assert cli.main(["replay", str(path), str(BUNDLE)]) == 0
    assert capsys.readouterr().out.startswith(f"identical: {len(steps(drive)) - 1} of {len(steps(drive))} steps")
    assert cli.main(["replay", str(path), str(BUNDLE), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["identical"] is True
    assert facts["different"] == 0


def test_the_verb_lists_what_is_different_and_exits_with_1(
    drive: Drive, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [entry.message for entry in drive if isinstance(entry.message, Frame)]
    path = record(drive, only(frames[20], data=bytes(len(frames[20].data))))
    assert cli.main(["replay", str(path), str(BUNDLE)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("NOT identical")
    assert "of frame 20 was" in out


def test_another_bundle_is_an_error(drive: Drive, record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    other = BUNDLE.with_name("tiny_weights.ebdl")
    assert cli.main(["replay", str(record(drive)), str(other)]) == 2
    assert "was made with the bundle" in capsys.readouterr().err


def test_a_recording_that_names_no_bundle_is_an_error(drive: Drive, record: Record) -> None:
    path = record([entry for entry in drive if isinstance(entry.message, Step | Snapshot)])
    with pytest.raises(RecordingError, match="does not say with which bundle"):
        check_bundle(Log(path), "0" * 64)


@pytest.mark.parametrize("kept", [Opening, Snapshot, Step], ids=lambda kind: kind.__name__)
def test_a_recording_with_nothing_to_replay_is_an_error(
    drive: Drive, record: Record, again: Callable[[Path], Report], kept: type
) -> None:
    path = record([entry for entry in drive if isinstance(entry.message, kept | Opening)])
    with pytest.raises(RecordingError, match="nothing to replay"):
        again(path)


def test_a_snapshot_that_is_none_is_stated(drive: Drive, record: Record, again: Callable[[Path], Report]) -> None:
    snapshots = [entry.message for entry in drive if isinstance(entry.message, Snapshot)]
    report = again(record(drive, only(snapshots[1], state=b"\xc1")))
    assert any("no snapshot of a policy" in line for line in report.not_replayed)
    assert len(report.contradictions) == 1
    assert report.compared < report.steps - 1


def test_a_recording_that_asks_for_all_memory_is_refused(
    drive: Drive, record: Record, again: Callable[[Path], Report]
) -> None:
    scored = next(entry.message for entry in drive if isinstance(entry.message, Assessment) and entry.message.scores)
    with pytest.raises(RecordingError, match="claims 1000000000 samples"):
        again(record(drive, only(scored, samples=10**9)))


# What is no recording.


def expect_refusal(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["replay", str(path), str(BUNDLE)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("edge-bdl: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89MCAP0\r\n", b"\x00" * 4096, np.random.default_rng(0).bytes(4096)],
    ids=["empty", "magic", "zeros", "noise"],
)
def test_files_that_are_no_recording_are_refused(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.mcap"
    path.write_bytes(content)
    assert "is no sound recording" in expect_refusal(path, capsys)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be read" in expect_refusal(tmp_path / "none.mcap", capsys)
    assert "cannot be read" in expect_refusal(tmp_path, capsys)


def test_somebody_elses_mcap_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        channel = writer.register_channel("/chatter", "json", 0)
        writer.add_message(channel, 1, b"{}", 1)
        writer.finish()
    assert "nothing that edge-bdl recorded" in expect_refusal(path, capsys)


def test_a_recording_cut_anywhere_is_refused_and_recover_is_named(
    drive: Drive, record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = record(drive).read_bytes()
    path = tmp_path / "cut.mcap"
    for length in range(0, len(whole) - 1, len(whole) // 23):
        path.write_bytes(whole[:length])
        assert "edge-bdl recover" in expect_refusal(path, capsys)


def test_flipped_bytes_are_refused_or_change_nothing(drive: Drive, record: Record, tmp_path: Path) -> None:
    """Checksums cover the chunks and the summary; the rest is headers, where a flip may well go unnoticed."""
    whole = record(drive).read_bytes()
    sound = [entry.message for entry in Log(tmp_path / "a.mcap").messages]
    path = tmp_path / "flipped.mcap"
    generator = np.random.default_rng(0)
    refused = 0
    for offset in generator.integers(0, len(whole), 40):
        flipped = bytearray(whole)
        flipped[offset] ^= 0xFF
        path.write_bytes(flipped)
        try:
            log = Log(path)
            assert sum(1 for _ in log.frames()) <= 100
        except RecordingError:
            refused += 1
        else:
            assert [entry.message for entry in log.messages] == sound
    assert refused > 20
