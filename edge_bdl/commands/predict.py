"""``edge-bdl predict``: one frame, with its uncertainty."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_bdl.commands.arguments import BundleParser, add_engine, add_json, add_samples, open_runtime, positive
from edge_bdl.commands.frames import read_frame
from edge_bdl.commands.output import columns, print_json
from edge_bdl.errors import InputError
from edge_bdl.runtime import Prediction


def predict(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code.

    Raises:
        EdgeBdlError: Bad usage, a bundle that is not sound, or a frame that does not fit it.
    """
    parser = BundleParser("predict", "Predict one frame, with its uncertainty.")
    parser.add_argument(
        "--input", metavar="FILE", type=Path, action="append", required=True,
        help=".npy file or image; once per input of the bundle, in the bundle's order",
    )  # fmt: skip
    add_samples(parser)
    parser.add_argument("--deadline-ms", type=positive, help="return within this time, with the members that fit")
    add_engine(parser)
    add_json(parser)
    options = parser.parse_args(argv)
    runtime = open_runtime(options)
    specs = runtime.manifest.inputs
    if len(options.input) != len(specs):
        names = ", ".join(spec.name for spec in specs)
        raise InputError(f"this bundle takes {len(specs)} inputs ({names}), got {len(options.input)}")
    frame = [read_frame(path, spec) for path, spec in zip(options.input, specs, strict=True)]
    # The latency of a prediction, not of loading graphs.
    runtime.warm_up(1, anytime=options.deadline_ms is not None)
    prediction = runtime.predict(frame, deadline_ms=options.deadline_ms)
    if prediction.fault is not None:
        print(f"edge-bdl: this prediction is no evidence: {prediction.fault}", file=sys.stderr)
    if options.json:
        print_json(_facts(prediction, runtime.engine.name))
    else:
        print(_text(prediction, runtime.engine.version))
    return 0


def _facts(prediction: Prediction, engine: str) -> dict[str, Any]:
    return {
        "samples": prediction.samples,
        "mean": prediction.mean,
        "aleatoric": prediction.aleatoric,
        "epistemic": prediction.epistemic,
        "total": prediction.total,
        "standard_error": prediction.standard_error,
        "stop_reason": prediction.stop_reason,
        "latency_ms": prediction.latency_ms,
        "engine": engine,
    }


def _text(prediction: Prediction, engine: str) -> str:
    facts = [
        (name, np.array2string(np.asarray(getattr(prediction, name)), precision=5, threshold=20, separator=", "))
        for name in ("mean", "standard_error", "aleatoric", "epistemic", "total", "density")
        if getattr(prediction, name) is not None
    ]
    rows = [(name, line) for name, text in facts for line in text.splitlines()]
    stopped = " until the deadline" if prediction.stop_reason == "deadline" else ""
    closed = prediction.manifest.bank.selection == "closed_form"
    used = "in closed form" if closed else f"{prediction.samples} members{stopped}"
    head = f"{used}, {prediction.latency_ms:.2f} ms under {engine}"
    return "\n".join([head, columns(rows)])
