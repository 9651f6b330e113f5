"""Export: recognise, rewrite, cut, choose, write, prove; only then is there a bundle."""

from __future__ import annotations

import copy
import importlib.metadata
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edge_bdl.bundle import check_replaceable, write_bundle
from edge_bdl.engines import open_engine
from edge_bdl.errors import ExportError, ProofError, require
from edge_bdl.manifest import (
    DENSITY_OUTPUT,
    MEAN_OUTPUT,
    MEMBERS_OUTPUT,
    Flops,
    Manifest,
    Provenance,
    Selection,
    Task,
    TensorSpec,
    schema_of,
)
from edge_bdl_export import scoring
from edge_bdl_export.adapters import Adapter, adapt, members_of
from edge_bdl_export.capture import Capture, capture
from edge_bdl_export.choose import Chosen, Reading, choose
from edge_bdl_export.cut import MemberAxis, cut
from edge_bdl_export.density import MINIMUM_FRAMES, FeatureDensity, pool
from edge_bdl_export.forms import gaussian_head, mask_bank, weight_bank
from edge_bdl_export.frames import FIGURES, SELECTION, THRESHOLDS, CalibrationFrames, read_frames
from edge_bdl_export.given import take_apart
from edge_bdl_export.golden import frames_that_fit, golden
from edge_bdl_export.graphs import Network
from edge_bdl_export.proof import proof
from edge_bdl_export.proof.subject import Arrays, Subject, tensors
from edge_bdl_export.quiet import quiet
from edge_bdl_export.write_onnx import write_onnx
from edge_bdl_export.write_tflite import write_tflite
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.threads import one_thread

_WRITERS = {"onnx": write_onnx, "tflite": write_tflite}
_ENGINES = {"onnx": "onnxruntime", "tflite": "tflite"}
# What writes and proves each format, and the extra that installs it: asked for before any work is done.
_NEEDS = {
    "onnx": (("onnx", "onnxscript", "onnxruntime"), "export"),
    "tflite": (("litert_torch", "ai_edge_litert"), "export-tflite"),
}
# Members per call of the head graph: what anytime sampling adds at a time.
_CHUNK = 4
_DENSITY_FRAMES = 2000
_SHALLOW_TRUNK = 0.5
# Of one pass: more than this for a covariance is worth a word.
_DEAR = 0.01
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


@one_thread()
def export(
    model: nn.Module | Posterior | Adapter | Any,
    example_input: Inputs,
    out: str | Path,
    *,
    task: Task = "regression",
    samples: int = 16,
    calibration: Any = None,
    selection: Selection = "balanced",
    members: Sequence[Mapping[str, Tensor]] | Callable[[torch.Generator], Mapping[str, Tensor]] | Any = None,
    deterministic: Sequence[str] = (),
    formats: Sequence[str] = ("onnx", "tflite"),
    class_axis: int = 1,
    name: str | None = None,
    seed: int = 0,
) -> Manifest:
    """Turn a trained Bayesian network into a verified bundle.

    The bundle is written only after the shipped graphs have been proved equal to the model under every engine; an
    existing bundle at ``out`` is replaced at the very end, or left as it was.

    Args:
        model: A trained torch module, or a fitted posterior of ``edge_bdl_train``, which brings its network and its
            members along; also a model or a posterior of a library that ``edge_bdl_export.adapters`` knows, or an
            ``Adapter``. It is copied, put into eval mode, and not changed.
        example_input: One input, or one per model argument. Its shapes and dtypes become the bundle's: no resizing and
            no casting is added, so preprocessing belongs into the model.
        out: Folder to write, by custom ``NAME.ebdl``.
        task: ``regression`` (every output is a target), ``heteroscedastic`` (the last axis holds means, then
            log-variances) or ``classification`` (logits).
        samples: Members in the bank: what one fused prediction uses.
        calibration: Frames for selection, thresholds and figures; see ``edge_bdl_export.frames.read_frames``. Without
            it there is no density and there are no thresholds, and the policy will hold.
        selection: ``iid``, ``balanced`` or ``selected`` (needs calibration).
        members: State dicts of posterior samples or of an ensemble; their parameters that differ become a weight bank,
            and ``samples`` and ``selection`` do not apply. Or what ``samples`` of them are drawn from: a function
            ``sample(generator) -> state_dict``, or a state of posteriors.
        deterministic: Qualified names of modules to hold at eval, with everything below them.
        formats: ``onnx``, ``tflite`` or both.
        class_axis: Which axis of the model's output holds the classes (classification), as torch.nn.CrossEntropyLoss
            has it.
        name: Human name; ``out`` without its suffix if not given.
        seed: For the masks and for the proof's own draws.

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
    _check_arguments(task, selection, seed)
    engines = _engines(formats)
    adapter = adapt(model, members, deterministic)
    if adapter is not None:
        model, members = adapter.network, members_of(adapter, samples, seed)
    given = take_apart(model, members, samples, seed)
    model = copy.deepcopy(given.model).cpu().eval()
    example = _example(example_input)
    _check_dtypes(example, formats)
    captured = capture(model, example, deterministic)
    reading = Reading(task, class_axis if task == "classification" else None)
    output = _output(captured, reading)
    if given.head is not None:
        posterior = gaussian_head.posterior(captured, given.head, task)
    elif given.members is not None:
        posterior = weight_bank.posterior(model, captured, given.members)
    else:
        posterior = mask_bank.posterior(model, captured, deterministic)
    closed = posterior.closed
    outputs = (output,) if closed is None else closed.described.moments(output.shape)
    parts = cut(captured, posterior.stochastic)
    network = Network(
        parts, example, [node.name for node in captured.inputs], posterior.inputs,
        closed and (closed.head, tuple(spec.name for spec in outputs)),
    )  # fmt: skip
    inputs = tuple(map(_spec, network.input_names, example))
    golden_frames = frames_that_fit(inputs, output, posterior, samples, _CHUNK)
    frames = None if calibration is None else read_frames(calibration, inputs)
    flops = _flops(network)
    chosen = choose(
        posterior, network, frames, reading,
        how=selection, samples=samples, chunk=_CHUNK, seed=seed, head_work=flops.total - flops.deterministic,
    )  # fmt: skip
    density = None if frames is None else _fit_density(network, frames.part(SELECTION))
    manifest = Manifest(
        schema_version=schema_of(posterior.form),
        name=name or out.stem,
        form=posterior.form,
        task=task,
        inputs=inputs,
        outputs=outputs
        if density is None
        else (*outputs, TensorSpec(name=DENSITY_OUTPUT, shape=(1,), dtype="float32")),
        boundary=tuple(map(_spec, network.boundary_names, network.boundary)),
        class_axis=reading.class_axis,
        engines=engines,
        bank=chosen.bank,
        gaussian=closed.described if closed else msgspec.UNSET,
        fidelity=chosen.fidelity,
        flops=flops,
        warnings=_warnings(network, flops, frames, selection, chosen) + (adapter.notes if adapter else ()),
        provenance=_provenance(model, engines, seed, adapter),
    )
    with tempfile.TemporaryDirectory(prefix="edge-bdl-") as staging:
        staged = Path(staging)
        _write(network, chosen, density, formats, staged)
        if frames is not None:
            manifest = _calibrate(manifest, chosen, frames, staged)
        subject = Subject(
            manifest=manifest,
            members=chosen.inputs,
            frames=_proof_frames(network, frames, golden_frames, seed),
            model=model,
            reference=posterior.reference,
            sampler=posterior.sampler,
            network=network,
            density=density,
            closed=closed,
        )
        manifest = msgspec.structs.replace(manifest, parity=_prove(subject, staged, seed))
        save_file(
            {key: np.ascontiguousarray(value) for key, value in chosen.stored.items()}, staged / "bank.safetensors"
        )
        save_file(golden(subject), staged / "golden.safetensors")
        return write_bundle(out, manifest, staged)


def _check_arguments(task: str, selection: str, seed: int) -> None:
    for what, value, known in (
        ("task", task, get_args(Task)),
        ("selection", selection, ("iid", "balanced", "selected")),
    ):
        if value not in known:
            raise ExportError(f"{what} is one of {', '.join(known)}; got {value!r}")
    if not 0 <= seed < 2**64:
        raise ExportError(f"seed must be at least 0 and fit 64 bits, got {seed}")


def _engines(formats: Sequence[str]) -> tuple[str, ...]:
    if isinstance(formats, str) or not formats or not set(formats) <= set(_ENGINES):
        raise ExportError(f"formats are one or more of {', '.join(_ENGINES)}; got {formats!r}")
    for kind in formats:
        modules, extra = _NEEDS[kind]
        for module in modules:
            with quiet():
                require(module, extra, f"to export {kind}")
    return tuple(engine for kind, engine in _ENGINES.items() if kind in formats)


def _example(given: Inputs) -> tuple[Tensor, ...]:
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


def _check_dtypes(example: Sequence[Tensor], formats: Sequence[str]) -> None:
    """TFLite's converter narrows 64-bit inputs without a word, and a bundle has one dtype for all engines."""
    for tensor in example:
        if "tflite" in formats and tensor.dtype in (torch.int64, torch.float64):
            narrow = str(tensor.dtype).replace("64", "32")
            raise ExportError(
                f"TFLite takes no {tensor.dtype} input; give the example as {narrow} (the model may cast it), or "
                "export with formats=('onnx',)"
            )


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name=name, shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))


def _output(captured: Capture, reading: Reading) -> TensorSpec:
    output = _spec(MEMBERS_OUTPUT, captured.output.meta["val"])
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


def _flops(network: Network) -> Flops:
    counts = [_work(module, network.frame) for module in (network.parts.deterministic, network.parts.trunk)]
    return Flops(total=counts[0], deterministic=min(counts))


def _work(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Multiply-accumulates."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2  # it counts a multiply-accumulate as two


def _fit_density(network: Network, frames: CalibrationFrames) -> FeatureDensity | None:
    if len(frames) < MINIMUM_FRAMES:
        return None
    pooled = [pool(network.trunk(tensors(frame))[1]) for frame in frames.thinned(_DENSITY_FRAMES)]
    return FeatureDensity(torch.cat(pooled))


def _warnings(
    network: Network, flops: Flops, frames: CalibrationFrames | None, asked: Selection, chosen: Chosen
) -> tuple[str, ...]:
    warnings = []
    closed = not isinstance(network.head, MemberAxis)
    if closed:
        extra = _work(network.head, network.boundary) - (flops.total - flops.deterministic)
        if extra > _DEAR * flops.total:
            warnings.append(
                f"the covariance costs {extra:,} multiply-accumulates, {extra / flops.total:.1%} of the network's, and "
                "slow ones, for each reads a number of its own: fit the posterior with covariance='diagonal' to have "
                "it for almost nothing"
            )
    elif flops.deterministic_share < _SHALLOW_TRUNK:
        warnings.append(
            f"only {flops.deterministic_share:.0%} of the computation is shared between members, so S members cost "
            "almost S passes: keep dropout to the last layers, or hold the earlier ones at eval with "
            "deterministic=[...]"
        )
    if not closed and not network.axis.batched:
        warnings.append("the head has an operator that cannot be batched over members: it runs once per member, slower")
    if asked == "selected" and chosen.bank.selection == "balanced":
        warnings.append("selection found no members closer to the full posterior than balanced ones: the bank is those")
    if frames is None:
        warnings.append("without calibration frames there are no thresholds, and a policy will hold the robot")
    return tuple(warnings)


def _provenance(model: nn.Module, engines: Sequence[str], seed: int, adapter: Adapter | None) -> Provenance:
    packages = ["edge-bdl", "torch", "numpy"]
    packages += ["onnx", "onnxscript", "onnxruntime"] if "onnxruntime" in engines else []
    packages += ["litert-torch", "ai-edge-litert"] if "tflite" in engines else []
    packages += [adapter.library] if adapter is not None and adapter.library else []
    return Provenance(
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions={package: importlib.metadata.version(package) for package in packages},
        model_class=f"{type(model).__module__}.{type(model).__qualname__}",
        seed=seed,
    )


def _write(
    network: Network, chosen: Chosen, density: FeatureDensity | None, formats: Sequence[str], staged: Path
) -> None:
    members = {key: torch.from_numpy(value) for key, value in chosen.inputs.items()}
    graphs = network.graphs(members, chosen.bank.chunk, density)
    for kind in formats:
        _WRITERS[kind](graphs, staged)


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


def _prove(subject: Subject, staged: Path, seed: int) -> tuple[Any, ...]:
    if subject.closed is not None:
        if not any(values.any() for name, values in subject.expected_moments.items() if name != f"fused.{MEAN_OUTPUT}"):
            raise ProofError("the posterior's covariance is zero on every frame: it has no uncertainty to export")
    elif not (np.ptp(subject.expected, axis=1) > 0.0).any():
        raise ProofError(
            f"all {subject.manifest.bank.members} members give the same output in torch itself: the rates are too "
            "small for so few samples, or the example input is not like a real frame (give one, or calibration frames)"
        )
    checks = proof.prove(subject, staged, subject.manifest.engines, seed)
    proof.insist(checks)
    return tuple(checks)
