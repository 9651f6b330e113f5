"""Checks of a Gaussian head: its moments are the posterior's, and what is drawn of them is what the posterior draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from edge_bdl.findings import ParityCheck
from edge_bdl.gaussian_head import draw, read
from edge_bdl.sampling import draw_normal
from edge_bdl.verification import TOLERANCE, moment_scales
from edge_bdl_export.forms.posterior import ClosedForm
from edge_bdl_export.proof import equality
from edge_bdl_export.proof.check import at_most
from edge_bdl_export.proof.moments import limit, two_sample_z
from edge_bdl_export.proof.subject import Arrays, EngineSubject, Subject, tensors
from edge_bdl_train.methods.gaussian_head import features, last_layer

# Logit samples that the integrals are compared by; fewer where all of them would not fit in memory.
LOGIT_DRAWS = 100_000
_NUMBERS = 1 << 23


def under(proved: EngineSubject, seed: int) -> list[ParityCheck]:
    """All checks under one engine."""
    checks = [
        equality.deterministic_equals_torch(proved),
        *_moments(proved),
        same_frame_same_bits(proved),
        *equality.density_equals_torch(proved),
    ]
    if proved.subject.manifest.task == "classification":
        checks.append(integral_equals_posterior(proved, seed))
    return checks


def _moments(proved: EngineSubject) -> list[ParityCheck]:
    """Mean and covariance are the posterior's closed form in float64; so are those of trunk and head."""
    expected = proved.subject.expected_moments
    fused = _over_frames([proved.fused(frame) for frame in proved.subject.frames], proved.subject)
    split = _over_frames([_split(proved, frame) for frame in proved.subject.frames], proved.subject)
    return [
        *_close(proved, "{}_equals_posterior", fused, expected),
        *_close(proved, "split_{}_equals_fused", split, fused),
    ]


def same_frame_same_bits(proved: EngineSubject) -> ParityCheck:
    """The same frame gives the same bits on every run."""
    worst = 0.0
    for frame in proved.subject.frames:
        once, again = proved.fused(frame), proved.fused(frame)
        worst = max(worst, *(equality.largest(once[name] - again[name]) for name in once))
    return at_most(proved.engine.name, "same_frame_same_bits", worst, 0.0)


def engines_agree(first: EngineSubject, second: EngineSubject) -> list[ParityCheck]:
    """Two engines give the same moments."""
    frames = first.subject.frames
    ours = _over_frames([first.fused(frame) for frame in frames], first.subject)
    theirs = _over_frames([second.fused(frame) for frame in frames], first.subject)
    return _close(first, f"{{}}_agrees_with[{second.engine.name}]", ours, theirs)


def reference_equals_golden(proved: EngineSubject) -> list[ParityCheck]:
    """ONNX's own reference evaluator gives the posterior's moments too. It is slow: one frame."""
    actual = _over_frames([proved.fused(proved.subject.frames[0])], proved.subject)
    expected = {name: values[:1] for name, values in proved.subject.expected_moments.items()}
    return _close(proved, "{}_equals_golden", actual, expected)


def members_have_these_moments(subject: Subject, draws: int, seed: int) -> ParityCheck:
    """Last layers that the posterior draws give outputs with the closed form's moments.

    Compared are every output and every difference of two neighbours: their means, and by Wilson and Hilferty's cube
    root (1931) their variances, for the outputs are Gaussian.
    """
    closed = _closed(subject)
    assert closed.posterior is not None
    outputs = _own_members(closed, subject.frames, draws, seed)
    worst, comparisons = 0.0, 0
    for index, frame in enumerate(subject.frames):
        mean, covariance = (values.numpy() for values in closed.posterior.moments(*tensors(frame)))
        contrasts = np.concatenate([np.eye(mean.shape[1]), np.diff(np.eye(mean.shape[1]), axis=0)])
        drawn = outputs[index] @ contrasts.T
        variance = (contrasts @ covariance * contrasts).sum(-1)
        rounding = TOLERANCE * subject.output_range
        error = np.sqrt(variance / draws) + np.finfo(np.float64).tiny
        mean_z = np.maximum(np.abs(drawn.mean(0) - mean @ contrasts.T) - rounding, 0.0) / error
        ninth = 2.0 / (9.0 * (draws - 1))
        ratio = (drawn.var(0, ddof=1) + rounding**2) / (variance + rounding**2)
        variance_z = np.abs(np.cbrt(ratio) - (1.0 - ninth)) / np.sqrt(ninth)
        worst = max(worst, float(mean_z.max()), float(variance_z.max()))
        comparisons += mean_z.size + variance_z.size
    return at_most("torch", "members_have_these_moments", worst, limit(comparisons))


def _own_members(closed: ClosedForm, frames: Sequence[Arrays], draws: int, seed: int) -> NDArray[np.float64]:
    """Outputs [frames, draws, rows, outputs] of drawn last layers, a block of them at a time: they may be large."""
    assert closed.posterior is not None
    network, name = closed.posterior.network, closed.posterior.settings["layer"]
    layer = last_layer(network, name)
    phi = torch.stack([features(network, layer, *tensors(frame)) for frame in frames])
    generator = torch.Generator().manual_seed(seed)
    block = max(1, _NUMBERS // layer.weight.numel())
    outputs = []
    for start in range(0, draws, block):
        members = closed.posterior.sample(generator, min(block, draws - start))
        drawn = [
            torch.cat([value.reshape(layer.out_features, -1) for value in member.values()], 1) for member in members
        ]
        outputs.append(torch.einsum("fnd,skd->fsnk", phi, torch.stack(drawn).double()))
    return torch.cat(outputs, dim=1).numpy()


def integral_equals_posterior(proved: EngineSubject, seed: int) -> ParityCheck:
    """Class probabilities and entropies over logits that the runtime draws are those over logits torch draws."""
    subject = proved.subject
    manifest, closed = subject.manifest, _closed(subject)
    draws = min(LOGIT_DRAWS, _NUMBERS // int(np.prod(manifest.output.shape)))
    (normals,) = draw_normal(manifest.bank, manifest.bank.members, draws).values()
    rounding = subject.rounding
    worst, comparisons = 0.0, 0
    for index, frame in enumerate(subject.frames):
        ours = _statistics(draw(read(manifest, proved.fused(frame)), normals))
        generator = torch.Generator().manual_seed(seed + index)
        theirs = _statistics(closed.sample_outputs(tensors(frame), draws, generator).numpy())
        worst = max(worst, two_sample_z(ours, theirs, rounding))
        comparisons += ours.shape[1]
    return at_most(proved.engine.name, "integral_equals_posterior", worst, limit(comparisons))


def _statistics(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Class probabilities and entropy of every draw, [draws, m]."""
    log_probabilities = torch.from_numpy(logits).log_softmax(-1)
    probabilities = log_probabilities.exp()
    entropy = -(probabilities * log_probabilities).sum(-1, keepdim=True)
    return torch.cat([probabilities, entropy], dim=-1).flatten(1).numpy()


def _split(proved: EngineSubject, frame: Arrays) -> dict[str, NDArray[np.generic]]:
    trunk = proved.engine.graph("trunk").run(frame)
    boundary = {spec.name: np.array(trunk[spec.name]) for spec in proved.subject.manifest.boundary}
    return {name: np.array(value) for name, value in proved.engine.graph("head").run(boundary).items()}


def _over_frames(outputs: Sequence[Arrays], subject: Subject) -> dict[str, NDArray[np.generic]]:
    return {
        f"fused.{spec.name}": np.stack([row[spec.name] for row in outputs]) for spec in subject.manifest.outputs[:2]
    }


def _close(proved: EngineSubject, name: str, actual: Arrays, expected: Arrays) -> list[ParityCheck]:
    scales = moment_scales(proved.subject.manifest, proved.subject.expected_moments)
    checks = []
    for key, scale in scales.items():
        same = actual[key].shape == expected[key].shape
        error = equality.largest(actual[key] - expected[key]) / scale if same else np.inf
        check, allowed = name.format(key.removeprefix("fused.output_")), proved.subject.tolerance
        checks.append(at_most(proved.engine.name, check, error, allowed))
    return checks


def _closed(subject: Subject) -> ClosedForm:
    assert subject.closed is not None
    return subject.closed
