"""Arguments of an export: seen to fit before any work is done, each misfit told in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_bdl.errors import ExportError, require
from edge_bdl.manifest import MEMBERS_OUTPUT, Selection, Task, TensorSpec
from edge_bdl_export.capture import Capture
from edge_bdl_export.choose import AUTO, Samples
from edge_bdl_export.fidelity import Reading
from edge_bdl_export.precision import Numbering
from edge_bdl_export.quiet import quiet

_ENGINES = {"onnx": "onnxruntime", "tflite": "tflite"}
# What writes and proves each format, and the extra that installs it: asked for before any work is done.
_NEEDS = {
    "onnx": (("onnx", "onnxscript", "onnxruntime"), "export"),
    "tflite": (("litert_torch", "ai_edge_litert"), "export-tflite"),
}
_FRAME_DTYPES = (
    torch.float32,
    torch.uint8,
    torch.int8,
    torch.int32,
    torch.int64,
    torch.float64,
    torch.float16,
    torch.bool,
)

Inputs = Tensor | NDArray[Any] | Sequence[Tensor | NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a bundle is to be like, in words and numbers that fit; see ``exporter.export`` for each.

    Raises:
        ExportError: A word is none of those known, a number cannot be, or two of them contradict each other.
    """

    task: Task
    samples: Samples
    selection: Selection
    fidelity: float
    deterministic: Sequence[str]
    stochastic_from: str | None
    formats: Sequence[str]
    class_axis: int
    seed: int
    self_contained: bool
    numbering: Numbering
    accept_loss: bool
    form: str | None
    calibrated: bool

    def __post_init__(self) -> None:
        for what, value, known in (
            ("task", self.task, get_args(Task)),
            ("selection", self.selection, ("iid", "balanced", "selected")),
        ):
            if value not in known:
                raise ExportError(f"{what} is one of {', '.join(known)}; got {value!r}")
        if not (isinstance(self.samples, int) or self.samples == AUTO):
            raise ExportError(f"samples is a whole number of at least 2, or 'auto', got {self.samples!r}")
        if not (isinstance(self.seed, int) and 0 <= self.seed < 2**64):
            raise ExportError(f"seed must be at least 0 and fit 64 bits, a whole number, got {self.seed!r}")
        if not (isinstance(self.fidelity, int | float) and 0.0 < self.fidelity <= 1.0):
            raise ExportError(f"fidelity is a rank correlation above 0, at most 1, got {self.fidelity!r}")
        self._check_partial()
        self._check_form()
        if self.self_contained and "onnx" not in self.formats:
            raise ExportError(
                f"a self-contained graph is ONNX; export with formats=('onnx',) or both, got {self.formats!r}"
            )

    def _check_partial(self) -> None:
        if self.stochastic_from is not None and not self.calibrated:
            raise ExportError(
                f"stochastic_from={self.stochastic_from!r} gives another posterior, and only calibration frames say "
                "how far it is from the whole one: give calibration=..."
            )

    @property
    def of_members(self) -> bool:
        """Whether weights are to be drawn, and a closed form will not do."""
        chosen = self.form == "weight_bank" or self.stochastic_from is not None or self.selection == "selected"
        return chosen or self.numbering.bank != "fp32"

    def _check_form(self) -> None:
        if self.form not in (None, "moments", "weight_bank"):
            raise ExportError(
                f"form is 'moments', 'weight_bank', or left out: the posterior then decides; got {self.form!r}"
            )
        if self.form != "moments":
            return
        if self.stochastic_from is not None:
            raise ExportError("form='moments' goes through the whole network; leave out stochastic_from, or form")
        if not self.calibrated:
            raise ExportError(
                "form='moments' comes close to the posterior, and only calibration frames say how close: give "
                "calibration=..."
            )


def engines_for(formats: Sequence[str]) -> tuple[str, ...]:
    """The engines that run these formats, once everything that writes and proves them is seen to be installed."""
    if isinstance(formats, str) or not formats or not set(formats) <= set(_ENGINES):
        raise ExportError(f"formats are one or more of {', '.join(_ENGINES)}; got {formats!r}")
    for kind in formats:
        modules, extra = _NEEDS[kind]
        for module in modules:
            with quiet():
                require(module, extra, f"to export {kind}")
    return tuple(engine for kind, engine in _ENGINES.items() if kind in formats)


def as_tensors(given: Inputs) -> tuple[Tensor, ...]:
    """The example as tensors of its own shapes and dtypes."""
    parts = given if isinstance(given, (list, tuple)) else (given,)
    try:
        example = tuple(torch.as_tensor(part).detach().cpu().contiguous() for part in parts)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ExportError(
            f"the example input is not numbers that torch knows ({error}); give arrays or tensors"
        ) from error
    for tensor in example:
        if not tensor.numel():
            raise ExportError(f"the example input has shape {tuple(tensor.shape)}, which is empty; give a real frame")
        if tensor.dtype not in _FRAME_DTYPES:
            raise ExportError(f"the example input is {tensor.dtype}; frames are {', '.join(map(str, _FRAME_DTYPES))}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ExportError("the example input holds NaN or infinity; give a real frame")
    return example


def check_dtypes(example: Sequence[Tensor], formats: Sequence[str]) -> None:
    """TFLite's converter narrows 64-bit inputs without a word, and a bundle has one dtype for all engines."""
    for tensor in example:
        if "tflite" in formats and tensor.dtype in (torch.int64, torch.float64):
            narrow = str(tensor.dtype).replace("64", "32")
            raise ExportError(
                f"TFLite takes no {tensor.dtype} input; give the example as {narrow} (the model may cast it), or "
                "export with formats=('onnx',)"
            )


def spec_of(name: str, tensor: Tensor) -> TensorSpec:
    """How the manifest describes a tensor."""
    return TensorSpec(name=name, shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))


def output_spec(captured: Capture, reading: Reading) -> TensorSpec:
    """One member's output, if it can be read as the task says."""
    output = spec_of(MEMBERS_OUTPUT, captured.output.meta["val"])
    if output.dtype != "float32":
        raise ExportError(f"the model's output is {output.dtype}; a bundle's output is float32")
    if reading.task == "heteroscedastic" and (not output.shape or output.shape[-1] % 2):
        raise ExportError(
            f"a heteroscedastic output holds as many log-variances as means in its last axis, got shape {output.shape}"
        )
    if reading.class_axis is not None and not 0 <= reading.class_axis < len(output.shape):
        raise ExportError(
            f"class_axis {reading.class_axis} is no axis of the model's output, whose shape is {output.shape}"
        )
    return output
