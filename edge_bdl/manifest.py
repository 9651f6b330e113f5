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
from edge_bdl.part import Part
from edge_bdl.policy_spec import PolicySpec

# The newest schema that is read here. A bundle states the oldest one that has its form: no robot is to refuse what it
# could run.
SCHEMA_VERSION = 2

Task = Literal["classification", "regression", "heteroscedastic"]
Form = Literal["mask_bank", "weight_bank", "gaussian_head"]
Selection = Literal["iid", "balanced", "selected", "given", "closed_form"]
Covariance = Literal["full", "per_output", "diagonal"]

# Names that the graphs of every bundle use. Frame inputs keep the model's own names.
MEMBERS_OUTPUT = "members"
DETERMINISTIC_OUTPUT = "output"
DENSITY_OUTPUT = "density"
# In place of members, where the posterior is Gaussian: the outputs' mean, and their covariance or only their variance.
# (A graph whose output is called as an operator is, ``mean`` for one, may hold two values of that name.)
MEAN_OUTPUT = "output_mean"
COVARIANCE_OUTPUT = "output_covariance"
VARIANCE_OUTPUT = "output_variance"


def schema_of(form: Form) -> int:
    """The oldest schema that has this form."""
    return 2 if form == "gaussian_head" else 1


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
    """

    members: int
    chunk: int
    selection: Selection
    seed: int
    inputs: tuple[StochasticInput, ...]
    member_weights: dict[int, tuple[float, ...]] = {}

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


class ParityCheck(Part, frozen=True, kw_only=True):
    """One check of the proof: what was measured, what was allowed."""

    engine: str
    check: str
    value: float
    limit: float
    passed: bool


class Flops(Part, frozen=True, kw_only=True):
    """Multiply-accumulates of one deterministic pass, and of its part before the cut."""

    total: int
    deterministic: int

    @property
    def deterministic_share(self) -> float:
        """Share of the FLOPs that is computed once per frame, in [0, 1]."""
        return self.deterministic / self.total if self.total else 0.0


class Fidelity(Part, frozen=True, kw_only=True):
    """How close a prefix of a bank is to the full posterior, on frames that its selection did not see.

    Attributes:
        samples: Length of the prefix.
        reference_members: Independent members that stand for the full posterior.
        kl: Mean KL divergence (nats) of the reference's predictive distribution from the prefix's.
        epistemic_spearman: Rank correlation of the epistemic score with the reference's.
    """

    samples: int
    reference_members: int
    kl: float
    epistemic_spearman: float


class Figures(Part, frozen=True, kw_only=True):
    """What the bundle does on frames that nothing was fitted on, by number of samples.

    Attributes:
        frames: How many.
        error: Mean absolute error, or share of wrong classes; empty without labels.
        coverage: Share of targets inside the fitted 90 % interval (regression); empty where none was fitted.
        held_back: Share of frames of nominal episodes on which the policy held the robot back; empty without episodes.
        handed_over: Of these episodes, how many ended in HANDOFF or STOP.
    """

    frames: int
    error: dict[int, float] = {}
    coverage: dict[int, float] = {}
    held_back: dict[int, float] = {}
    handed_over: dict[int, int] = {}


class Provenance(Part, frozen=True, kw_only=True):
    """Where a bundle comes from: UTC time of export (ISO 8601), versions of what made it, class of the model."""

    created_utc: str
    versions: dict[str, str]
    model_class: str
    seed: int


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
        policy: Scores, thresholds, times.
        calibration: Temperature and interval scale.
        fidelity: How close the prefixes come to the full posterior.
        figures: What it does on frames that nothing was fitted on.
        flops: Of one deterministic pass.
        parity: The proof.
        warnings: What the exporter wants a person to know.
        provenance: Where it comes from.
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
    policy: PolicySpec = PolicySpec()
    calibration: Calibration = Calibration()
    fidelity: tuple[Fidelity, ...] = ()
    figures: Figures | None = None
    flops: Flops
    parity: tuple[ParityCheck, ...] = ()
    warnings: tuple[str, ...] = ()
    provenance: Provenance

    def __post_init__(self) -> None:
        if self.schema_version != schema_of(self.form):
            raise ValueError(f"a {self.form} is of schema {schema_of(self.form)}, got {self.schema_version}")
        if not self.inputs or not self.outputs:
            raise ValueError("a bundle has at least one input and one output")
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

    def _check_gaussian(self) -> None:
        if (self.form == "gaussian_head") != isinstance(self.gaussian, GaussianHead):
            raise ValueError("a gaussian_head, and nothing else, describes its last layer")
        sampled = self.form != "gaussian_head" or self.task == "classification"
        if (self.bank.selection == "closed_form") == sampled:
            raise ValueError("members are drawn of all but a gaussian_head's regression, which is in closed form")
        if not isinstance(self.gaussian, GaussianHead):
            return
        shape = self.outputs[0].shape
        if len(shape) != 2 or self.outputs[:2] != self.gaussian.moments(shape):
            raise ValueError(f"a gaussian_head gives mean [rows, outputs] and its covariance, got {self.outputs}")
        if self.class_axis not in (None, 1):
            raise ValueError(f"the classes of a gaussian_head are its axis 1, got {self.class_axis}")
        if any((source.kind, source.shape) != ("normal", shape) for source in self.bank.inputs):
            raise ValueError(f"a gaussian_head's draws are normal and of shape {shape}")

    @property
    def member_inputs(self) -> tuple[StochasticInput, ...]:
        """The graph inputs that carry members."""
        return () if self.form == "gaussian_head" else self.bank.inputs

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
