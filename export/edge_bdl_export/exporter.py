"""Export: understand, settle, write, prove; only then is there a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from edge_bdl.bundle import check_replaceable, write_bundle
from edge_bdl.engines import open_engine
from edge_bdl.manifest import (
    DENSITY_OUTPUT,
    GaussianHead,
    Manifest,
    Numbers,
    Selection,
    Task,
    TensorSpec,
    schema_of,
)
from edge_bdl_export import scoring
from edge_bdl_export.adapters import Adapter
from edge_bdl_export.advice import advice, advice_on_members
from edge_bdl_export.arguments import Asked, Inputs, engines_for, spec_of
from edge_bdl_export.choose import Samples
from edge_bdl_export.contents import Contents, settle
from edge_bdl_export.frames import FIGURES, THRESHOLDS, CalibrationFrames, read_frames, read_outsiders
from edge_bdl_export.golden import golden
from edge_bdl_export.precision import Numbering
from edge_bdl_export.proof.staged import prove_staged
from edge_bdl_export.provenance import provenance
from edge_bdl_export.self_contained import write_self_contained
from edge_bdl_export.staging import staging
from edge_bdl_export.understand import Understood, understand
from edge_bdl_export.write_onnx import write_onnx
from edge_bdl_export.write_tflite import write_tflite
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.threads import one_thread

_WRITERS = {"onnx": write_onnx, "tflite": write_tflite}


@one_thread()
def export(
    model: nn.Module | Posterior | Adapter | Any,
    example_input: Inputs,
    out: str | Path,
    *,
    task: Task = "regression",
    samples: Samples = 16,
    calibration: Any = None,
    selection: Selection = "balanced",
    fidelity: float = 0.97,
    outsiders: Any = None,
    members: Sequence[Mapping[str, Tensor]] | Callable[[torch.Generator], Mapping[str, Tensor]] | Any = None,
    deterministic: Sequence[str] = (),
    stochastic_from: str | None = None,
    formats: Sequence[str] = ("onnx", "tflite"),
    class_axis: int = 1,
    name: str | None = None,
    seed: int = 0,
    self_contained: bool = False,
    weights: Numbers = "fp32",
    bank: Numbers = "fp32",
    accept_loss: bool = False,
    form: str | None = None,
) -> Manifest:
    """Turn a trained Bayesian network into a verified bundle.

    The bundle is written only after the shipped graphs have been proved equal to the model under every engine; an
    existing bundle at ``out`` is replaced at the very end, or left as it was.

    Args:
        model: A trained torch module, or a fitted posterior of ``edge_bdl_train``, which brings its network and its
            members along; also a model or a posterior of a library that ``edge_bdl_export.adapters`` knows, or an
            ``Adapter``; or a list of networks of one architecture, which are an ensemble. It is copied, put into eval
            mode, and not changed.
        example_input: One input, or one per model argument. Its shapes and dtypes become the bundle's: no resizing and
            no casting is added, so preprocessing belongs into the model.
        out: Folder to write, by custom ``NAME.ebdl``.
        task: ``regression`` (every output is a target), ``heteroscedastic`` (the last axis holds means, then
            log-variances) or ``classification`` (logits).
        samples: Members in the bank: what one fused prediction uses. ``auto``: as few, at most 64, as reach
            ``fidelity`` on calibration frames that they were not selected on.
        calibration: Frames for selection, thresholds and figures; see ``edge_bdl_export.frames.read_frames``. Without
            it there is no density and there are no thresholds, and the policy will hold.
        selection: ``iid``, ``balanced`` or ``selected`` (needs calibration). Weights cannot be balanced: unless they
            are selected, the bank holds the first ``samples`` of them.
        fidelity: Rank correlation of the epistemic score with the full posterior's that ``auto`` is to reach.
        outsiders: Frames that the network should not know, in the format of ``calibration``: what few members lose of
            the AUROC of the epistemic score is recorded.
        members: State dicts of posterior samples or of an ensemble; their parameters that differ become a weight bank.
            Or what they are drawn from: a function ``sample(generator) -> state_dict``, or a state of posteriors.
        deterministic: Qualified names of modules to hold at eval, with everything below them.
        stochastic_from: Qualified name of the first module, in the order of a forward pass, to stay random: everything
            before it is put to the posterior's mean (needs calibration, which says what that costs).
        formats: ``onnx``, ``tflite`` or both.
        class_axis: Which axis of the model's output holds the classes (classification), as torch.nn.CrossEntropyLoss
            has it.
        name: Human name; ``out`` without its suffix if not given.
        seed: For the masks and for the proof's own draws.
        self_contained: Also write one ONNX file with the bank inside, which gives mean and uncertainty of a frame: for
            C++ and TensorRT.
        weights: How the network's weights are stored: ``fp32``, ``fp16`` (computed in fp32), or ``int8``: the layers
            that all members share are computed in integers too (needs calibration).
        bank: How a bank of weights is stored: ``fp32``, ``fp16`` or ``int8``.
        accept_loss: Write the bundle although fewer bits, or moments, cost more than is allowed; the manifest warns of
            it.
        form: ``moments``: mean and variance in one pass, without members, of dropout or mean field (needs calibration).
            ``weight_bank``: members also of a Gaussian over the last layer's weights, which else is exported in closed
            form (but for ``selection="selected"``, ``stochastic_from`` or fewer bits for the bank). None: as the
            posterior has it.

    Returns:
        The manifest of the written bundle.

    Raises:
        UnsupportedModelError: The model is random in a way that is not understood, or cannot be captured.
        ProofError: The graphs do not have the posterior's moments.
        ExportError: An argument does not fit the model, or its outputs are too large for a self-test.
        BundleError: At ``out`` is something other than a bundle, or the disk refuses.
        MissingExtraError: A format's converter is not installed.
    """
    out = Path(out)
    check_replaceable(out)
    engines = engines_for(formats)
    asked = Asked(
        task=task, samples=samples, selection=selection, fidelity=fidelity, deterministic=deterministic,
        stochastic_from=stochastic_from, formats=formats, class_axis=class_axis, seed=seed,
        self_contained=self_contained, numbering=Numbering(weights, bank), accept_loss=accept_loss, form=form,
        calibrated=calibration is not None,
    )  # fmt: skip
    understood = understand(model, example_input, members, asked)
    frames = None if calibration is None else read_frames(calibration, understood.inputs)
    strange = None if outsiders is None else read_outsiders(outsiders, understood.inputs)
    contents = settle(understood, frames, strange, asked)
    manifest = _describe(understood, contents, frames, asked, engines, name or out.stem)
    with staging() as staged:
        _write(contents, asked, staged)
        if frames is not None:
            manifest = _calibrate(manifest, contents, frames, staged)
        if self_contained:
            manifest = write_self_contained(manifest, contents.chosen.stored, staged)
        manifest, subject = prove_staged(manifest, understood, contents, frames, asked, staged)
        bank_stored = {key: np.ascontiguousarray(value) for key, value in contents.chosen.stored.items()}
        save_file(bank_stored, staged / "bank.safetensors")
        save_file(golden(subject), staged / "golden.safetensors")
        return write_bundle(out, manifest, staged)


def _describe(
    understood: Understood,
    contents: Contents,
    frames: CalibrationFrames | None,
    asked: Asked,
    engines: tuple[str, ...],
    name: str,
) -> Manifest:
    """The manifest, but for what is measured on the graphs once they are written."""
    given, found, flops = understood.given, understood.found, understood.flops
    network, chosen, closed = contents.network, contents.chosen, found.posterior.closed
    pictures = msgspec.UNSET if frames is None else frames.pictures()
    scored = () if contents.density is None else (TensorSpec(name=DENSITY_OUTPUT, shape=(1,), dtype="float32"),)
    return Manifest(
        schema_version=schema_of(
            found.posterior.form, contents.partial, *chosen.later, chosen.bank.built_in, chosen.bank.fixed, pictures
        ),
        name=name,
        form=found.posterior.form,
        task=asked.task,
        inputs=tuple(understood.inputs),
        outputs=(*understood.outputs, *scored),
        boundary=tuple(map(spec_of, network.boundary_names, network.boundary)),
        class_axis=understood.reading.class_axis,
        engines=engines,
        bank=chosen.bank,
        gaussian=closed.described if closed and isinstance(closed.described, GaussianHead) else msgspec.UNSET,
        propagation=contents.propagation,
        fidelity=chosen.fidelity,
        partial=contents.partial,
        flops=flops,
        warnings=(
            *advice(network, flops, frames, asked.selection, chosen),
            *advice_on_members(given, found.drawn, chosen.bank),
            *asked.numbering.advice(network, engines),
        ),
        provenance=provenance(found.model, engines, asked.seed, given.adapter),
        pictures=pictures,
    )


def _write(contents: Contents, asked: Asked, staged: Path) -> None:
    members = {key: torch.from_numpy(value) for key, value in contents.chosen.inputs.items()}
    graphs = contents.network.graphs(members, contents.chosen.bank.chunk, contents.density)
    for kind in asked.formats:
        _WRITERS[kind](graphs, staged, asked.numbering.half)


def _calibrate(manifest: Manifest, contents: Contents, frames: CalibrationFrames, staged: Path) -> Manifest:
    """What frames say of the graphs: thresholds from some of them, figures from others."""
    engine, chosen = open_engine(manifest.engines[0], staged, manifest), contents.chosen

    def scored(part: CalibrationFrames) -> scoring.Scored:
        return scoring.score(manifest, engine, chosen.inputs, chosen.stored, part)

    fitted_on, reported_on = frames.part(THRESHOLDS), frames.part(FIGURES)
    calibrated = scoring.calibrated(manifest, scored(fitted_on), fitted_on)
    return msgspec.structs.replace(calibrated, figures=scoring.figures(calibrated, scored(reported_on), reported_on))
