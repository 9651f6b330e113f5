"""Export: recognise, rewrite, cut, choose, write, prove; only then is there a bundle."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn

from edge_bdl.bundle import check_replaceable, write_bundle
from edge_bdl.engines import open_engine
from edge_bdl.errors import ExportError, ProofError
from edge_bdl.findings import ParityCheck
from edge_bdl.manifest import (
    DENSITY_OUTPUT,
    MEAN_OUTPUT,
    GaussianHead,
    Manifest,
    Numbers,
    Propagation,
    Selection,
    Task,
    TensorSpec,
    schema_of,
)
from edge_bdl_export import scoring
from edge_bdl_export.adapters import Adapter
from edge_bdl_export.advice import advice, advice_on_members
from edge_bdl_export.arguments import (
    Inputs,
    as_tensors,
    check_choices,
    check_dtypes,
    check_form,
    check_partial,
    engines_for,
    output_spec,
    spec_of,
)
from edge_bdl_export.banks import standing_for
from edge_bdl_export.capture import capture
from edge_bdl_export.choose import AUTO, FEWEST, Chosen, Samples, choose
from edge_bdl_export.cut import cut
from edge_bdl_export.density import Density, fit_density
from edge_bdl_export.fidelity import Reading
from edge_bdl_export.frames import FIGURES, SELECTION, THRESHOLDS, CalibrationFrames, read_frames, read_outsiders
from edge_bdl_export.given import take_apart
from edge_bdl_export.golden import frames_that_fit, golden
from edge_bdl_export.graphs import Network
from edge_bdl_export.precision import Numbering
from edge_bdl_export.proof import proof, propagation, quantised
from edge_bdl_export.proof.subject import Arrays, Subject
from edge_bdl_export.provenance import provenance
from edge_bdl_export.recognise import recognise
from edge_bdl_export.self_contained import equals_runtime, write_self_contained
from edge_bdl_export.staging import staging
from edge_bdl_export.torch_engine import TorchEngine
from edge_bdl_export.work import flops_of
from edge_bdl_export.write_onnx import write_onnx
from edge_bdl_export.write_tflite import write_tflite
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.threads import one_thread

_WRITERS = {"onnx": write_onnx, "tflite": write_tflite}
# Members per call of the head graph: what anytime sampling adds at a time.
_CHUNK = 4


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
            None: as the posterior has it.

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
    check_choices(task, selection, seed, fidelity)
    check_partial(stochastic_from, calibration)
    check_form(form, stochastic_from, calibration)
    engines = engines_for(formats)
    numbering = Numbering(weights, bank)
    if self_contained and "onnx" not in formats:
        raise ExportError(f"a self-contained graph is ONNX; export with formats=('onnx',) or both, got {formats!r}")
    given = take_apart(model, members, deterministic, seed)
    model = copy.deepcopy(given.model).cpu().eval()
    example = as_tensors(example_input)
    check_dtypes(example, formats)
    if given.adapter is not None:
        given.adapter.check(example)
    captured = capture(model, example, deterministic)
    reading = Reading(task, class_axis if task == "classification" else None)
    output = output_spec(captured, reading)
    found = recognise(
        given, model, captured, example,
        form=form, stochastic_from=stochastic_from, deterministic=deterministic, task=task, samples=samples,
        selection=selection, seed=seed,
    )  # fmt: skip
    posterior, captured = found.posterior, found.captured
    closed = posterior.closed
    outputs = (output,) if closed is None else closed.described.moments(output.shape)
    parts = cut(captured, posterior.stochastic)
    network = exact = Network(
        parts, example, [node.name for node in captured.inputs], posterior.inputs,
        closed and (closed.head, tuple(spec.name for spec in outputs)), apart=bank == "int8",
    )  # fmt: skip
    inputs = tuple(map(spec_of, network.input_names, example))
    frames_that_fit(inputs, output, posterior, FEWEST if samples == AUTO else samples, _CHUNK)
    frames = None if calibration is None else read_frames(calibration, inputs)
    strange = None if outsiders is None else read_outsiders(outsiders, inputs)
    numbering.check(posterior, frames is not None, accept_loss)
    flops = flops_of(network)
    cost = found.part.cost(exact, frames, reading) if found.part and frames else msgspec.UNSET
    network = numbering.lower(exact, frames)
    chosen = choose(
        posterior, network, frames, reading,
        how=selection, samples=samples, chunk=_CHUNK, seed=seed, head_work=flops.total - flops.deterministic,
        others=standing_for(posterior, given.draws, found.drawn, seed), outsiders=strange, least=fidelity,
    )  # fmt: skip
    described: Propagation | msgspec.UnsetType = msgspec.UNSET
    if closed is not None and closed.whole is not None and frames is not None:
        described = propagation.compare(closed, captured, frames, reading, network, flops.total)
    golden_frames = frames_that_fit(inputs, output, posterior, chosen.bank.members, _CHUNK)
    network = numbering.lower_members(network, chosen, frames)
    in_fp32, chosen = chosen, numbering.store(chosen)
    density = None if frames is None else fit_density(network, frames.part(SELECTION), task)
    pictures = msgspec.UNSET if frames is None else frames.pictures()
    manifest = Manifest(
        schema_version=schema_of(
            posterior.form, cost, *chosen.later, chosen.bank.built_in, chosen.bank.fixed, pictures
        ),
        name=name or out.stem,
        form=posterior.form,
        task=task,
        inputs=inputs,
        outputs=outputs
        if density is None
        else (*outputs, TensorSpec(name=DENSITY_OUTPUT, shape=(1,), dtype="float32")),
        boundary=tuple(map(spec_of, network.boundary_names, network.boundary)),
        class_axis=reading.class_axis,
        engines=engines,
        bank=chosen.bank,
        gaussian=closed.described if closed and isinstance(closed.described, GaussianHead) else msgspec.UNSET,
        propagation=described,
        fidelity=chosen.fidelity,
        partial=cost,
        flops=flops,
        warnings=(
            *advice(network, flops, frames, selection, chosen),
            *advice_on_members(given, found.drawn, chosen.bank),
            *numbering.advice(network, engines),
        ),
        provenance=provenance(found.model, engines, seed, given.adapter),
        pictures=pictures,
    )
    with staging() as staged:
        _write(network, chosen, density, formats, staged, half=numbering.half)
        if frames is not None:
            manifest = _calibrate(manifest, chosen, frames, staged)
        if self_contained:
            manifest = write_self_contained(manifest, chosen.stored, staged)
        subject = Subject(
            manifest=manifest,
            members=chosen.inputs,
            frames=_proof_frames(network, frames, golden_frames, seed),
            model=found.model,
            reference=posterior.reference,
            sampler=posterior.sampler,
            network=network,
            density=density,
            closed=closed,
        )
        if numbering.exact:
            checks = _prove(subject, chosen.stored, staged, seed)
        else:
            manifest, subject, checks = _prove_lowered(
                subject, TorchEngine(exact, in_fp32.inputs, density), numbering, chosen, in_fp32, frames, staged,
                seed, accept_loss,
            )  # fmt: skip
        if isinstance(described, Propagation):
            compared = propagation.checks(described)
            manifest, checks = propagation.accepted(manifest, compared, accept_loss), (*checks, *compared)
        manifest = msgspec.structs.replace(manifest, parity=checks)
        save_file(
            {key: np.ascontiguousarray(value) for key, value in chosen.stored.items()}, staged / "bank.safetensors"
        )
        save_file(golden(subject), staged / "golden.safetensors")
        return write_bundle(out, manifest, staged)


def _write(
    network: Network,
    chosen: Chosen,
    density: Density | None,
    formats: Sequence[str],
    staged: Path,
    half: bool = False,
) -> None:
    members = {key: torch.from_numpy(value) for key, value in chosen.inputs.items()}
    graphs = network.graphs(members, chosen.bank.chunk, density)
    for kind in formats:
        _WRITERS[kind](graphs, staged, half)


def _calibrate(manifest: Manifest, chosen: Chosen, frames: CalibrationFrames, staged: Path) -> Manifest:
    engine = open_engine(manifest.engines[0], staged, manifest)

    def scored(part: CalibrationFrames) -> scoring.Scored:
        return scoring.score(manifest, engine, chosen.inputs, chosen.stored, part)

    fitted_on, reported_on = frames.part(THRESHOLDS), frames.part(FIGURES)
    calibrated = scoring.calibrated(manifest, scored(fitted_on), fitted_on)
    return msgspec.structs.replace(calibrated, figures=scoring.figures(calibrated, scored(reported_on), reported_on))


def _proof_frames(network: Network, frames: CalibrationFrames | None, count: int, seed: int) -> list[Arrays]:
    """Real frames where there are some; the example, and variations of it, where not."""
    example = {key: tensor.numpy() for key, tensor in zip(network.input_names, network.frame, strict=True)}
    if frames is not None:
        return list(frames.part(FIGURES).thinned(count))
    generator = np.random.Generator(np.random.Philox(seed))
    varied = [{key: _variation(value, generator) for key, value in example.items()} for _ in range(count - 1)]
    return [example, *varied]


def _variation(value: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    """The same values in other places: a frame of the same range, and integers may be indices."""
    return generator.permutation(value.ravel()).reshape(value.shape)


def _prove(subject: Subject, stored: Arrays, staged: Path, seed: int) -> tuple[ParityCheck, ...]:
    if subject.closed is not None:
        if not any(values.any() for name, values in subject.expected_moments.items() if name != f"fused.{MEAN_OUTPUT}"):
            raise ProofError("the posterior's covariance is zero on every frame: it has no uncertainty to export")
    elif not (np.ptp(subject.expected, axis=1) > 0.0).any():
        raise ProofError(
            f"all {subject.manifest.bank.members} members give the same output in torch itself: the rates are too "
            "small for so few samples, or the example input is not like a real frame (give one, or calibration frames)"
        )
    checks = proof.prove(subject, staged, subject.manifest.engines, seed)
    if subject.manifest.self_contained is not msgspec.UNSET:
        checks += equals_runtime(subject.manifest, stored, staged, subject.frames, subject.output_range)
    proof.insist(checks)
    return tuple(checks)


def _prove_lowered(
    subject: Subject,
    fp32: TorchEngine,
    numbering: Numbering,
    chosen: Chosen,
    in_fp32: Chosen,
    frames: CalibrationFrames | None,
    staged: Path,
    seed: int,
    accept_loss: bool,
) -> tuple[Manifest, Subject, tuple[ParityCheck, ...]]:
    """The proof of graphs with fewer bits: they are what was lowered, and what was lowered is near the model.

    Returns:
        The manifest with what was lost, the subject that its goldens are of, and the checks.
    """
    equal = quantised.network_equals_model(subject, fp32)
    proof.insist(equal)
    subject = quantised.as_computed(subject, fp32, numbering, seed)
    losses = quantised.losses(subject, fp32, chosen, in_fp32, frames, staged)
    accepted = quantised.accepted(subject.manifest, losses, accept_loss)
    checks = (*equal, *_prove(subject, chosen.stored, staged, seed), *losses)
    return accepted, subject, checks
