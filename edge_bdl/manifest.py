"""What a bundle says of itself: the structs behind ``manifest.json``.

Every struct is frozen and keyword-only and checks itself when built, whether by the exporter or by the decoder, so a
manifest that exists is one that makes sense. The format is JSON; unknown fields are refused, and a manifest of a newer
schema is refused before anything else in it is looked at.
"""

from __future__ import annotations

import json
import math
from typing import Literal

import msgspec

from edge_bdl.errors import BundleError
from edge_bdl.findings import Fidelity, Figures, Flops, ParityCheck, Partial, Provenance
from edge_bdl.part import Part
from edge_bdl.pictures import Pictures
from edge_bdl.policy_spec import PolicySpec

# The newest schema that is read here. A bundle states the oldest one that has its form: no robot is to refuse what it
# could run.
SCHEMA_VERSION = 2

Task = Literal["classification", "regression", "heteroscedastic"]
Form = Literal["mask_bank", "weight_bank", "ensemble", "gaussian_head", "moments"]
Selection = Literal["iid", "balanced", "selected", "given", "closed_form"]
Covariance = Literal["full", "per_output", "diagonal"]
Numbers = Literal["fp32", "fp16", "int8"]

# Names that the graphs of every bundle use. Frame inputs keep the model's own names.
MEMBERS_OUTPUT = "members"
DETERMINISTIC_OUTPUT = "output"
DENSITY_OUTPUT = "density"
# In place of members, where the posterior is Gaussian: the outputs' mean, and their covariance or only their variance.
# (A graph whose output is called as an operator is, ``mean`` for one, may hold two values of that name.)
MEAN_OUTPUT = "output_mean"
COVARIANCE_OUTPUT = "output_covariance"
VARIANCE_OUTPUT = "output_variance"
# Graphs of one chunk of members each; a bundle's folder holds no more of them.
MOST_HEADS = 100
# What the self-contained graph gives; the density behind them, where there is one.
SELF_CONTAINED_OUTPUTS = ("mean", "total", "aleatoric", "epistemic")


def schema_of(form: Form, *fields: object) -> int:
    """The oldest schema that has this form, and those of these fields that are set."""
    newer = form not in ("mask_bank", "weight_bank") or any(field is not msgspec.UNSET for field in fields)
    return 2 if newer else 1


class TensorSpec(Part, frozen=True, kw_only=True):
    """One tensor at the border of a graph.

    Attributes:
        name: Its name in every graph of the bundle.
        shape: All of its axes, static.
        dtype: A numpy dtype name such as ``uint8`` or ``float32``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if any(extent < 1 for extent in self.shape):
            raise ValueError(f"tensor {self.name!r}: every axis must be at least 1 long, got shape {self.shape}")


class FileEntry(Part, frozen=True, kw_only=True):
    """Size in bytes and SHA-256 (hex) of one file of the bundle."""

    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if self.bytes < 0:
            raise ValueError(f"a file cannot have {self.bytes} bytes")
        if len(self.sha256) != 64 or not set(self.sha256) <= set("0123456789abcdef"):
            raise ValueError(f"not a SHA-256 digest in lower-case hex: {self.sha256!r}")


class StochasticInput(Part, frozen=True, kw_only=True):
    """What carries members: the masks of one dropout call site, one parameter's members, or draws of the outputs.

    Attributes:
        name: The graph input, ``mask_0`` or ``weight_0``; its first axis is the member axis S. ``normal_0`` is no graph
            input: the runtime makes members of it, the mean and the covariance.
        source: The module (masks, draws) or parameter (weights) it stands for, by its qualified name in the model.
        call: Which call of that module in one forward pass, from 0.
        kind: The torch module class for masks, ``parameter`` for weights, ``normal`` for draws from N(0, 1).
        shape: Shape of one member, without the member axis.
        rate: Probability that a unit is dropped (masks), 0 for weights.
        scale: The value of a kept unit; a dropped one is 0. For weights 1.
    """

    name: str
    source: str
    call: int = 0
    kind: str
    shape: tuple[int, ...]
    rate: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if any(extent < 1 for extent in self.shape):
            raise ValueError(f"{self.source}: every axis must be at least 1 long, got shape {self.shape}")
        if not 0.0 <= self.rate < 1.0:
            raise ValueError(f"{self.source}: a drop rate is in [0, 1), got {self.rate}")
        if not (math.isfinite(self.scale) and self.scale > 0.0):
            raise ValueError(f"{self.source}: the value of a kept unit must be positive and finite, got {self.scale}")


class Bank(Part, frozen=True, kw_only=True):
    """The stored members.

    Attributes:
        members: How many are stored; the fused graph takes exactly so many.
        chunk: How many the head graph takes in one call.
        selection: How they were chosen. ``given``: by the caller (an ensemble, posterior samples). ``closed_form``:
            there are none to choose, for one pass says it all.
        seed: Key of the Philox generator that members beyond the bank (and iid ones in it) come from.
        inputs: What carries them, in graph order; empty in closed form.
        member_weights: Weight of each member for each prefix length that has weights (each sums to 1); else equal.
        built_in: The graphs hold the members themselves, as constants: ``fused`` all of them, ``head_0``, ``head_1``
            and so on a chunk each. Unset: members are graph inputs, and there is one ``head``.
        fixed: These are all the masks that there are: none may be drawn. Unset: more come from the generator.
    """

    members: int
    chunk: int
    selection: Selection
    seed: int
    inputs: tuple[StochasticInput, ...]
    member_weights: dict[int, tuple[float, ...]] = {}
    built_in: Literal[True] | msgspec.UnsetType = msgspec.UNSET
    fixed: Literal[True] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        closed_form = self.selection == "closed_form"
        if closed_form != (not self.inputs):
            raise ValueError("a bank without stochastic inputs is not a posterior")
        if (self.members != 1) if closed_form else (self.members < 2):
            raise ValueError(f"a bank holds at least 2 members, in closed form 1; got {self.members}")
        if not 1 <= self.chunk <= self.members:
            raise ValueError(f"the head's chunk must be in [1, {self.members}], got {self.chunk}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"the seed must fit 64 bits, got {self.seed}")
        for samples, weights in self.member_weights.items():
            if len(weights) != samples or min(weights) < 0.0 or abs(sum(weights) - 1.0) > 1e-6:
                raise ValueError(f"the {samples} member weights must be non-negative and sum to 1, got {weights}")
        if self.built_in and len(self.heads) > MOST_HEADS:
            raise ValueError(f"{self.members} members in chunks of {self.chunk} are more than {MOST_HEADS} heads")

    @property
    def heads(self) -> tuple[str, ...]:
        """The graphs from the boundary to members."""
        chunks = range(-(-self.members // self.chunk))
        return tuple(f"head_{i}" for i in chunks) if self.built_in else ("head",)

    @property
    def unbiased(self) -> bool:
        """Whether members are independent draws: variances divide by S-1 and mutual information is corrected."""
        return self.selection in ("iid", "given")


class GaussianHead(Part, frozen=True, kw_only=True):
    """A last layer with a Gaussian over its weights: what the graphs compute in place of members.

    Attributes:
        layer: The last layer, by its qualified name in the model.
        covariance: ``full``: of every output with every other; of classes, less what all logits share.
            ``per_output`` and ``diagonal``: outputs are independent, so there is a variance for each; its weights'
            covariance is dense, or diagonal too.
        noise_variance: Of a target around a member's output, squared target units (regression); 0: not known.
    """

    layer: str
    covariance: Covariance
    noise_variance: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_variance) and self.noise_variance >= 0.0):
            raise ValueError(f"the noise's variance is finite and not negative, got {self.noise_variance}")

    def moments(self, shape: tuple[int, ...]) -> tuple[TensorSpec, TensorSpec]:
        """What the graphs give for an output [rows, outputs]: mean, and covariance or variance."""
        name, full = (COVARIANCE_OUTPUT, shape[-1:]) if self.covariance == "full" else (VARIANCE_OUTPUT, ())
        return (
            TensorSpec(name=MEAN_OUTPUT, shape=shape, dtype="float32"),
            TensorSpec(name=name, shape=(*shape, *full), dtype="float32"),
        )


class Precision(Part, frozen=True, kw_only=True):
    """In which numbers weights and members are stored, where it is not fp32 throughout.

    Attributes:
        weights: ``fp16``: stored so, computed in fp32. ``int8``: the trunk's layers, stored and computed in integers.
        bank: A bank's weights, stored so and computed in fp32.
        tolerance: How far members may be from the goldens, as a share of the output's range: integers are rounded
            differently by different machines.
        density_tolerance: Likewise the density, relative to its size and one.
    """

    weights: Numbers = "fp32"
    bank: Numbers = "fp32"
    tolerance: float
    density_tolerance: float

    def __post_init__(self) -> None:
        if self.weights == self.bank == "fp32":
            raise ValueError("weights and bank both in fp32 is what a bundle without a precision has")
        for value in (self.tolerance, self.density_tolerance):
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"tolerances are positive and finite, got {value}")


class Propagation(Part, frozen=True, kw_only=True):
    """Mean and variance that go through the whole network, in place of members, and how close they come to them.

    Attributes:
        noise_variance: Of a target around a member's output, squared target units (regression); 0: not known.
        frames: Frames that nothing was fitted on, on which the rest was measured.
        reference_members: Independent members that stand for the posterior.
        mean_error: Root of the mean squared difference of the outputs' means, as a share of the members' deviation.
        deviation_ratio: The outputs' standard deviation over the members', the median over frames and outputs.
        epistemic_spearman: Rank correlation of the epistemic score with the members'.
    """

    noise_variance: float = 0.0
    frames: int = 0
    reference_members: int = 0
    mean_error: float = 0.0
    deviation_ratio: float = 1.0
    epistemic_spearman: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_variance) and self.noise_variance >= 0.0):
            raise ValueError(f"the noise's variance is finite and not negative, got {self.noise_variance}")
        for value in (self.frames, self.reference_members, self.mean_error, self.deviation_ratio):
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"how close moments come is told by finite numbers that are not negative, got {value}")
        if not -1.0 <= self.epistemic_spearman <= 1.0:
            raise ValueError(f"a rank correlation is in [-1, 1], got {self.epistemic_spearman}")

    def moments(self, shape: tuple[int, ...]) -> tuple[TensorSpec, TensorSpec]:
        """What the graphs give for an output: mean and variance."""
        return (
            TensorSpec(name=MEAN_OUTPUT, shape=shape, dtype="float32"),
            TensorSpec(name=VARIANCE_OUTPUT, shape=shape, dtype="float32"),
        )


class Calibration(Part, frozen=True, kw_only=True):
    """What was fitted on labelled frames, by number of samples.

    Attributes:
        temperature: Of the averaged class probabilities (classification).
        interval_scale: Factor on the predictive standard deviation (regression) that makes 90 % intervals cover 90 %.
    """

    temperature: dict[int, float] = {}
    interval_scale: dict[int, float] = {}

    def __post_init__(self) -> None:
        for value in (*self.temperature.values(), *self.interval_scale.values()):
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"temperatures and interval scales are positive and finite, got {value}")


class Manifest(Part, frozen=True, kw_only=True):
    """Everything a bundle says of itself.

    Attributes:
        schema_version: The oldest schema of this format that has everything in it.
        files: Every file of the bundle but the manifest, its digest and its signature.
        name: Human name.
        form: How the stochastic part is written in the graphs.
        task: How a member's output is read.
        inputs: The frame inputs, as the model's example gave them.
        outputs: One member's output (without the member axis), or mean and covariance of a Gaussian head; and the
            density where there is one.
        boundary: The tensors that pass from trunk to head.
        class_axis: Which axis of one member's output holds the classes (classification).
        engines: Engines that this bundle carries proved graphs for.
        bank: The stored members.
        gaussian: The last layer of a ``gaussian_head``; no other form has it.
        propagation: How close ``moments`` come to their posterior; no other form has it.
        policy: Scores, thresholds, times.
        calibration: Temperature and interval scale.
        fidelity: How close the prefixes come to the full posterior.
        partial: What it costs that only the end of a stochastic network is random here. Unset where all of it is.
        figures: What it does on frames that nothing was fitted on.
        flops: Of one deterministic pass.
        parity: The proof.
        warnings: What the exporter wants a person to know.
        provenance: Where it comes from.
        precision: Unset where all weights and members are fp32.
        self_contained: What ``self_contained.onnx`` gives for the inputs: some of ``mean``, ``total``, ``aleatoric``,
            ``epistemic`` and ``density``. Unset where there is no such file.
        pictures: How light and how sharp the calibration frames are, of a camera's. Unset where that is not known.
    """

    schema_version: int = 1
    files: dict[str, FileEntry] = {}
    name: str
    form: Form
    task: Task
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    boundary: tuple[TensorSpec, ...]
    class_axis: int | None = None
    engines: tuple[str, ...]
    bank: Bank
    gaussian: GaussianHead | msgspec.UnsetType = msgspec.UNSET
    propagation: Propagation | msgspec.UnsetType = msgspec.UNSET
    policy: PolicySpec = PolicySpec()
    calibration: Calibration = Calibration()
    fidelity: tuple[Fidelity, ...] = ()
    partial: Partial | msgspec.UnsetType = msgspec.UNSET
    figures: Figures | None = None
    flops: Flops
    parity: tuple[ParityCheck, ...] = ()
    warnings: tuple[str, ...] = ()
    provenance: Provenance
    precision: Precision | msgspec.UnsetType = msgspec.UNSET
    self_contained: tuple[TensorSpec, ...] | msgspec.UnsetType = msgspec.UNSET
    pictures: Pictures | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        later = [self.partial, *(value for row in self.fidelity for value in row.later)]
        later += [self.self_contained, self.pictures, self.bank.built_in, self.bank.fixed, self.precision]
        schema = schema_of(self.form, *later)
        if self.schema_version != schema:
            raise ValueError(f"a {self.form} is of schema {schema}, got {self.schema_version}")
        if not self.inputs or not self.outputs:
            raise ValueError("a bundle has at least one input and one output")
        if self.bank.fixed and self.form != "mask_bank":
            raise ValueError(f"masks may be fixed, a {self.form} has none")
        if self.bank.built_in and self.form not in ("weight_bank", "ensemble"):
            raise ValueError(f"weights may be built into the graphs, a {self.form} has none")
        if self.stored_as != "fp32" and self.form not in ("weight_bank", "ensemble"):
            raise ValueError(f"a {self.form} has no bank of weights to be stored in {self.stored_as}")
        names = [*(spec.name for spec in self.inputs), *(spec.name for spec in self.bank.inputs)]
        if len(set(names)) < len(names):
            raise ValueError(f"the graphs' inputs must have different names, got {names}")
        if self.task == "heteroscedastic" and (not self.outputs[0].shape or self.outputs[0].shape[-1] % 2):
            raise ValueError(f"heteroscedastic output must have an even last axis, got {self.outputs[0].shape}")
        if self.task == "classification" and self.class_axis is None:
            raise ValueError("a classification bundle must say which axis holds the classes")
        if self.class_axis is not None and not 0 <= self.class_axis < len(self.outputs[0].shape):
            raise ValueError(f"class_axis {self.class_axis} is not an axis of {self.outputs[0].shape}")
        self._check_gaussian()
        self._check_self_contained()
        if self.partial is not msgspec.UNSET and self.closed is not None:
            raise ValueError(f"a {self.form} has no members, and so it has nothing partial")

    def _check_self_contained(self) -> None:
        if self.self_contained is msgspec.UNSET:
            return
        names = [spec.name for spec in self.self_contained]
        known = (*SELF_CONTAINED_OUTPUTS, *((DENSITY_OUTPUT,) if self.has_density else ()))
        if names[:2] != ["mean", "total"] or names != [name for name in known if name in names]:
            raise ValueError(f"a self-contained graph gives mean, total and perhaps more of {known}, got {names}")
        if "onnxruntime" not in self.engines:
            raise ValueError(f"a self-contained graph is proved under onnxruntime, the engines are {self.engines}")

    def _check_gaussian(self) -> None:
        if (self.form == "gaussian_head") != isinstance(self.gaussian, GaussianHead):
            raise ValueError("a gaussian_head, and nothing else, describes its last layer")
        if (self.form == "moments") != isinstance(self.propagation, Propagation):
            raise ValueError("moments, and nothing else, say how close they come to their posterior")
        sampled = self.closed is None or self.task == "classification"
        if (self.bank.selection == "closed_form") == sampled:
            raise ValueError(
                "members are drawn of all but a gaussian_head's regression, and moments', which are in closed form"
            )
        if self.closed is None:
            return
        shape = self.outputs[0].shape
        if (len(shape) != 2 and self.form == "gaussian_head") or self.outputs[:2] != self.closed.moments(shape):
            raise ValueError(f"a {self.form} gives mean [rows, outputs] and its covariance, got {self.outputs}")
        if self.form == "gaussian_head" and self.class_axis not in (None, 1):
            raise ValueError(f"the classes of a gaussian_head are its axis 1, got {self.class_axis}")
        if any((source.kind, source.shape) != ("normal", shape) for source in self.bank.inputs):
            raise ValueError(f"a {self.form}'s draws are normal and of shape {shape}")

    @property
    def closed(self) -> GaussianHead | Propagation | None:
        """What there is in place of members: the graphs give mean and covariance, or variance."""
        if isinstance(self.gaussian, GaussianHead):
            return self.gaussian
        return self.propagation if isinstance(self.propagation, Propagation) else None

    @property
    def member_inputs(self) -> tuple[StochasticInput, ...]:
        """The graph inputs that carry members."""
        return () if self.closed is not None or self.bank.built_in else self.bank.inputs

    @property
    def stored_as(self) -> Numbers:
        """In which numbers a bank's weights are stored."""
        return self.precision.bank if isinstance(self.precision, Precision) else "fp32"

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of all graphs."""
        return ("det", "trunk", *self.bank.heads, "fused")

    @property
    def output(self) -> TensorSpec:
        """One member's output."""
        return self.outputs[0]

    @property
    def has_density(self) -> bool:
        """Whether the graphs compute the feature density."""
        return any(output.name == DENSITY_OUTPUT for output in self.outputs)


class _Version(msgspec.Struct):
    schema_version: int


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> None:
    """Of a field given twice, one reader takes the first value and another the last: it says two things."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"a field is given twice among {sorted(names)[:20]}")


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON for people and machines, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        BundleError: It is not JSON, of another schema, or does not make sense.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise BundleError(
                f"the bundle has schema {version}, this edge-bdl reads up to {SCHEMA_VERSION}: pip install -U edge-bdl"
            )
        json.loads(data, object_pairs_hook=_refuse_duplicates)
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json cannot be read ({error}); export the bundle again") from error
