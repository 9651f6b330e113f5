"""What a network and its engine do wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from edge_bdl.bundle import DIGEST, Bundle, digest_line
from fault_campaign.bounds import BAD_FRAME_S, SILENCE_S, START_S
from fault_campaign.fault import HOLD, Fault
from fault_campaign.harness import Run, Setup

_BAD_FRAME = "one camera period and the margin"
_ENOUGH_S = 0.8  # for five assessments, and for the gate to say what it makes of them
_SILENCE = "assessment timeout, one tick and the margin"


def ordered(word: str) -> Callable[[Run], None]:
    """The faulty node does this from now on."""

    def inject(run: Run) -> None:
        run.strike()
        run.harness.order(word)

    return inject


def obedient(run: Run) -> None:
    """The faulty node does nothing wrong any more."""
    run.harness.order("")


def _model(word: str, stop_s: float = BAD_FRAME_S, because: str = _BAD_FRAME) -> Fault:
    return Fault(
        ordered(word), HOLD, stop_s, because, bad_evidence=True, cure=obedient, setup=Setup(faulty_monitor=True)
    )


def _wrong_bundle(run: Run) -> None:
    """The monitor is replaced by one with another bundle: the same network, another manifest."""
    harness = run.harness
    run.strike()
    harness.kill("monitor")
    harness.start("monitor", bundle=_other(harness.bundle, harness.folder / "other.ebdl"))
    digest = Bundle.open(harness.bundle).digest
    heard = run.log.assessments
    run.until("an assessment by the other bundle", lambda: heard and heard[-1][1].bundle != digest, START_S)
    time.sleep(_ENOUGH_S)


def _other(bundle: Path, path: Path) -> Path:
    """A sound bundle that differs in its thresholds only: ten times as bold."""
    if path.exists():
        return path
    shutil.copytree(bundle, path)
    manifest = json.loads((path / "manifest.json").read_bytes())
    for score in manifest["policy"]["scores"]:
        for limits in score["thresholds"].values():
            limits["handoff"] *= 10.0
    (path / "manifest.json").write_text(json.dumps(manifest))
    raw = (path / "manifest.json").read_bytes()
    (path / DIGEST).write_bytes(digest_line(hashlib.sha256(raw).hexdigest()))
    return path


def _right_bundle(run: Run) -> None:
    run.harness.kill("monitor")


FAULTS = {
    "NaN logits": _model("nan"),
    "NaN score": _model("nan score"),
    "identical members": _model("identical"),
    "model raises": _model("raise"),
    "model hangs": _model("hang", SILENCE_S, _SILENCE),
    "model is slow": _model("slow", SILENCE_S, _SILENCE),
    "wrong bundle hash": Fault(
        _wrong_bundle, HOLD, SILENCE_S, _SILENCE, watch_s=1.5, bad_evidence=True, cure=_right_bundle
    ),
}
