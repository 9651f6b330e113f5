"""One ONNX file that needs nothing beside it: frame in, mean and uncertainty out, for C++ and TensorRT.

It is the fused graph that is shipped and proved, with its weights and its bank inside, and behind it the arithmetic of
``edge_bdl.uncertainty`` and ``edge_bdl.gaussian_head`` in float32. Temperature and interval scale are not applied; of
the manifest's thresholds it knows nothing. Where a member is not finite, so is what is said of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl.bundle import MAX_BYTES, SELF_CONTAINED
from edge_bdl.engines import open_engine
from edge_bdl.errors import ExportError, require
from edge_bdl.findings import ParityCheck
from edge_bdl.manifest import (
    COVARIANCE_OUTPUT,
    DENSITY_OUTPUT,
    MEMBERS_OUTPUT,
    SELF_CONTAINED_OUTPUTS,
    Manifest,
    TensorSpec,
    schema_of,
)
from edge_bdl.runtime import Prediction, Runtime
from edge_bdl.sampling import Members
from edge_bdl.verification import DENSITY_TOLERANCE, TOLERANCE
from edge_bdl_export.graphs import Graph
from edge_bdl_export.proof.check import at_most
from edge_bdl_export.write_onnx import to_onnx

if TYPE_CHECKING:
    import onnx

_TINY = torch.finfo(torch.float32).tiny
Said = dict[str, Tensor]


def write_self_contained(manifest: Manifest, stored: Mapping[str, NDArray[Any]], folder: Path) -> Manifest:
    """Write ``self_contained.onnx`` beside the fused graph that it is made of.

    Args:
        manifest: Of the staged bundle.
        stored: The bank as it is stored.
        folder: Holds the staged graphs.

    Returns:
        The manifest, which now names the file and what it gives.

    Raises:
        ExportError: It would not fit into one file.
    """
    onnx = require("onnx", "export", "to write ONNX graphs")
    bank = Members(manifest.form, manifest.bank, stored)
    members = bank.take(0, manifest.bank.members)
    summary, examples = _summary(manifest, bank.weights(manifest.bank.members), members)
    outputs = tuple(summary(**examples))
    fused = onnx.load(str(folder / "fused.onnx"))
    behind = to_onnx("self_contained", Graph(module=summary, example=examples, outputs=outputs))
    merged = _joined(_filled(fused, manifest, members), behind)
    if merged.ByteSize() > MAX_BYTES[SELF_CONTAINED]:
        raise ExportError(
            f"weights and bank are {merged.ByteSize() / 2**30:.1f} GiB, and one ONNX file holds 2: use fewer members, "
            "or export without self_contained"
        )
    onnx.checker.check_model(merged, full_check=True)
    (folder / SELF_CONTAINED).write_bytes(merged.SerializeToString(deterministic=True))
    specs = tuple(_spec(value) for value in merged.graph.output)
    return msgspec.structs.replace(manifest, schema_version=schema_of(manifest.form, specs), self_contained=specs)


def equals_runtime(
    manifest: Manifest,
    stored: Mapping[str, NDArray[Any]],
    folder: Path,
    frames: Sequence[Mapping[str, NDArray[Any]]],
    output_range: float,
) -> list[ParityCheck]:
    """What the file says is what `Runtime.predict` says, on every frame.

    Variances are compared as standard deviations, against the output's range; probabilities and nats as they are, nats
    against the largest entropy that there is.

    Args:
        manifest: Names the file.
        stored: The bank as it is stored.
        folder: Holds the staged graphs.
        frames: By input name.
        output_range: Of the members.
    """
    onnxruntime = require("onnxruntime", "export", "to prove ONNX graphs")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / SELF_CONTAINED, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    runtime = Runtime(manifest, open_engine("onnxruntime", folder, manifest), stored)
    samples = None if {*SELF_CONTAINED_OUTPUTS} <= {*names} else 0
    worst = dict.fromkeys(names, 0.0)
    for frame in frames:
        prediction = runtime.predict(dict(frame), samples)
        for name, value in zip(names, session.run(None, dict(frame)), strict=True):
            worst[name] = max(worst[name], _difference(name, value, prediction, output_range))
    return [
        at_most(
            "onnxruntime",
            f"self_contained_equals_runtime[{name}]",
            value,
            DENSITY_TOLERANCE if name == DENSITY_OUTPUT else TOLERANCE,
        )
        for name, value in worst.items()
    ]


def _difference(name: str, value: NDArray[Any], prediction: Prediction, output_range: float) -> float:
    expected = np.asarray(getattr(prediction, name), np.float64).reshape(value.shape)
    if name == DENSITY_OUTPUT:
        difference = (value - expected) / (np.abs(expected) + 1.0)
    elif prediction.manifest.task == "classification":
        axis = prediction.manifest.class_axis
        assert axis is not None
        difference = (value - expected) / (1.0 if name == "mean" else math.log(max(2, prediction.mean.shape[axis])))
    elif name == "mean":
        difference = (value - expected) / output_range
    else:
        difference = (np.sqrt(value) - np.sqrt(expected)) / output_range
    largest = float(np.abs(difference).max())
    return largest if math.isfinite(largest) else math.inf


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    shape = tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
    return TensorSpec(name=value.name, shape=shape, dtype="float32")


# --- the graph --------------------------------------------------------------------------------------------------------


def _summary(
    manifest: Manifest, weights: NDArray[np.float64], members: Mapping[str, NDArray[np.float32]]
) -> tuple[nn.Module, dict[str, Tensor]]:
    """What stands behind the fused graph, and examples of what it reads there, by name."""
    if manifest.closed is None:
        outputs = torch.rand(manifest.bank.members, *manifest.output.shape)
        return Together(manifest, weights), {MEMBERS_OUTPUT: outputs}
    examples = {spec.name: torch.rand(spec.shape) for spec in manifest.outputs[:2]}
    if manifest.task != "classification":
        return ClosedForm(manifest), examples
    if COVARIANCE_OUTPUT in examples:
        return Probit(manifest.output.shape[1]), examples
    (normals,) = members.values()
    return Drawn(torch.from_numpy(normals), Together(manifest, weights)), examples


class Together(nn.Module):
    """`edge_bdl.uncertainty` over members [S, ...].

    Args:
        manifest: Says how members are read.
        weights: Of each member, sum 1.
    """

    def __init__(self, manifest: Manifest, weights: NDArray[np.float64]) -> None:
        super().__init__()
        self.task, self.axis = manifest.task, manifest.class_axis
        shape = (len(weights), *(1 for _ in manifest.output.shape))
        self.register_buffer("share", torch.from_numpy(weights).float().reshape(shape))
        self.inflation = 1.0 / (1.0 - float(weights @ weights)) if manifest.bank.unbiased else 1.0

    def forward(self, members: Tensor) -> Said:
        """Mean, total, aleatoric and epistemic, by name."""
        if self.task == "classification":
            return self._classification(members)
        if self.task == "heteroscedastic":
            means, log_variances = members.chunk(2, dim=-1)
            return _regression(*self._moments(means), self._mean(log_variances.exp()))
        mean, variance = self._moments(members)
        # Nothing is known of the noise: 0, and no number where there is none.
        return _regression(mean, variance, variance - variance)

    def _classification(self, logits: Tensor) -> Said:
        assert self.axis is not None
        log_probabilities = logits.log_softmax(self.axis + 1)
        probabilities = log_probabilities.exp()
        mean = self._mean(probabilities)
        aleatoric = -self._mean((probabilities * log_probabilities).sum(self.axis + 1, keepdim=True)).squeeze(self.axis)
        gained = (_entropy(mean, self.axis) - aleatoric) * self.inflation
        epistemic = _at_most(_not_negative(gained), math.log(logits.shape[self.axis + 1]))
        return {"mean": mean, "total": aleatoric + epistemic, "aleatoric": aleatoric, "epistemic": epistemic}

    def _mean(self, rows: Tensor) -> Tensor:
        return (rows * self.share).sum(0)

    def _moments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        mean = self._mean(rows)
        centred = rows - mean
        return mean, self._mean(centred * centred) * self.inflation


class Drawn(nn.Module):
    """Members from the mean and the variance of independent logits: the bank's draws, the first of the runtime's."""

    def __init__(self, normals: Tensor, together: Together) -> None:
        super().__init__()
        self.register_buffer("normals", normals)
        self.together = together

    def forward(self, output_mean: Tensor, output_variance: Tensor) -> Said:
        """As ``Together``."""
        return self.together(output_mean + _not_negative(output_variance).sqrt() * self.normals)  # type: ignore[no-any-return]


class Probit(nn.Module):
    """`edge_bdl.gaussian_head.probit` of a full covariance.

    Its draws take a matrix root, for which there is no plain operator; so the epistemic part is not known.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("eye", torch.eye(classes))
        self.register_buffer("centring", torch.eye(classes) - 1.0 / classes)
        self.scale = classes / max(classes - 1, 1)

    def forward(self, output_mean: Tensor, output_covariance: Tensor) -> Said:
        """Mean and total, by name."""
        covariance = self.centring @ output_covariance @ self.centring * self.scale
        variance = _not_negative((covariance * self.eye).sum(-1))
        mean = (output_mean @ self.centring / (1.0 + math.pi / 8.0 * variance).sqrt()).softmax(1)
        return {"mean": mean, "total": _entropy(mean, 1)}


class ClosedForm(nn.Module):
    """`edge_bdl.gaussian_head.closed_form` of a Gaussian head's regression."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        assert manifest.closed is not None
        self.heteroscedastic = manifest.task == "heteroscedastic"
        self.noise_variance = manifest.closed.noise_variance
        # A diagonal as plain operators.
        self.register_buffer("eye", torch.eye(manifest.output.shape[-1]))

    def forward(
        self, output_mean: Tensor, output_variance: Tensor | None = None, output_covariance: Tensor | None = None
    ) -> Said:
        """As ``Together``."""
        if output_covariance is not None:
            output_variance = (output_covariance * self.eye).sum(-1)
        assert output_variance is not None
        variance = _not_negative(output_variance)
        if not self.heteroscedastic:
            return _regression(output_mean, variance, variance - variance + self.noise_variance)
        (mean, log_variance), (variance, spread) = output_mean.chunk(2, dim=-1), variance.chunk(2, dim=-1)
        return _regression(mean, variance, (log_variance + spread / 2.0).exp())


def _regression(mean: Tensor, epistemic: Tensor, aleatoric: Tensor) -> Said:
    return {"mean": mean, "total": aleatoric + epistemic, "aleatoric": aleatoric, "epistemic": epistemic}


def _entropy(probabilities: Tensor, axis: int) -> Tensor:
    return -(probabilities * probabilities.clamp_min(_TINY).log()).sum(axis)


def _not_negative(values: Tensor) -> Tensor:
    """Clipping makes a number of NaN in some engines, and that number would be the most certain there is."""
    return torch.where(values < 0.0, torch.zeros(()), values)


def _at_most(values: Tensor, limit: float) -> Tensor:
    return torch.where(values > limit, torch.tensor(limit), values)


def _filled(fused: onnx.ModelProto, manifest: Manifest, members: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """The fused graph with the bank in place of its member inputs, and names that are in nobody's way."""
    from onnx import compose, numpy_helper

    frame = {spec.name for spec in manifest.inputs}
    inputs = list(fused.graph.input)
    del fused.graph.input[:]
    for value in inputs:
        if value.name in frame:
            fused.graph.input.append(value)
        else:
            fused.graph.initializer.append(numpy_helper.from_array(members[value.name], value.name))
    return compose.add_prefix(fused, "fused/", rename_inputs=False, rename_outputs=False)


def _joined(fused: onnx.ModelProto, behind: onnx.ModelProto) -> onnx.ModelProto:
    """One graph of two: what goes into the second has the names of what comes out of the first."""
    from onnx import compose

    behind = compose.add_prefix(behind, "behind/", rename_inputs=False, rename_outputs=False)
    density = [value for value in fused.graph.output if value.name == DENSITY_OUTPUT]
    del fused.graph.output[:]
    fused.graph.output.extend([*behind.graph.output, *density])
    fused.graph.node.extend(behind.graph.node)
    fused.graph.initializer.extend(behind.graph.initializer)
    return fused
