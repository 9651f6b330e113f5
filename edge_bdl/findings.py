"""What was found out when a bundle was exported, as the manifest holds it: the proof, its costs, what it is worth."""

from __future__ import annotations

import math

import msgspec

from edge_bdl.part import Part


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
        seen_kl: As ``kl``, on the frames that members were selected on: what it is less by was not learned but fitted.
        seen_epistemic_spearman: As ``epistemic_spearman``, on the same.
        auroc_lost: AUROC of the epistemic score for frames that the network should not know, the reference's less the
            prefix's. Unset where no such frames were given.
    """

    samples: int
    reference_members: int
    kl: float
    epistemic_spearman: float
    seen_kl: float | msgspec.UnsetType = msgspec.UNSET
    seen_epistemic_spearman: float | msgspec.UnsetType = msgspec.UNSET
    auroc_lost: float | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if (self.seen_kl is msgspec.UNSET) != (self.seen_epistemic_spearman is msgspec.UNSET):
            raise ValueError("of the frames that members were selected on, both figures are told, or neither")
        for name in ("epistemic_spearman", "seen_epistemic_spearman", "auroc_lost"):
            value = getattr(self, name)
            if value is not msgspec.UNSET and not -1.0 <= value <= 1.0:
                raise ValueError(f"{name} is in [-1, 1], got {value}")

    @property
    def later(self) -> tuple[object, ...]:
        """What schema 1 had not."""
        return (self.seen_kl, self.seen_epistemic_spearman, self.auroc_lost)


class Partial(Part, frozen=True, kw_only=True):
    """What it costs that only part of a stochastic network is random here, on frames that nothing was selected on.

    Attributes:
        from_layer: The first module that is as random as it was; before it everything is at its posterior mean.
        reference_members: Members of the whole posterior, and as many of this one, that were compared.
        kl: Mean KL divergence (nats) of the whole posterior's predictive distribution from this one's.
        epistemic_spearman: Rank correlation of the epistemic scores.
        mean_error: Root of the mean squared difference of the two mean predictions; class probabilities, target units.
        epistemic_ratio: Mean epistemic score, as a share of the whole posterior's.
    """

    from_layer: str
    reference_members: int
    kl: float
    epistemic_spearman: float
    mean_error: float
    epistemic_ratio: float

    def __post_init__(self) -> None:
        if self.reference_members < 2:
            raise ValueError(f"a posterior is told by at least 2 members, got {self.reference_members}")
        if not -1.0 <= self.epistemic_spearman <= 1.0:
            raise ValueError(f"a rank correlation is in [-1, 1], got {self.epistemic_spearman}")
        values = (self.kl, self.mean_error, self.epistemic_ratio)
        if not all(math.isfinite(value) for value in values) or min(values[1:]) < 0.0:
            raise ValueError(f"what a partial posterior costs is finite, errors and ratios not negative, got {values}")


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
