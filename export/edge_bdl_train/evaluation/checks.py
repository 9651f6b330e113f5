"""What every metric asks of its arguments, in one place: float64 tensors of the right shape, finite, and not empty."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edge_bdl.errors import InputError

# Rounding of float32 and of half precision; a sum further from 1 is no distribution.
_SUM_TOLERANCE = 1e-3


def member_probabilities(probabilities: Any) -> Tensor:
    """Class probabilities of members, float64 [S, N, K]; [N, K] is one member.

    Raises:
        InputError: they are no probabilities, or of another shape.
    """
    given = finite("probabilities", probabilities, "[S, N, K] or [N, K]", (2, 3))
    if given.shape[-1] < 2:
        raise InputError(f"probabilities are of at least 2 classes, got shape {list(given.shape)}")
    if (given < 0.0).any() or ((given.sum(-1) - 1.0).abs() > _SUM_TOLERANCE).any():
        raise InputError(
            "probabilities must not be negative and sum to 1 over the last axis: give softmax outputs, not logits"
        )
    return given if given.ndim == 3 else given[None]


def predictive(probabilities: Any) -> Tensor:
    """The members' average, float64 [N, K]: the distribution that is judged.

    Raises:
        InputError: as for ``member_probabilities``.
    """
    return member_probabilities(probabilities).mean(0)


def judged(probabilities: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """The averaged distribution [N, K] and the right classes, int64 [N].

    Raises:
        InputError: they do not fit each other.
    """
    average = predictive(probabilities)
    classes = torch.as_tensor(labels)
    if classes.shape != average.shape[:1] or classes.is_floating_point() or classes.dtype == torch.bool:
        raise InputError(
            f"{len(average)} predictions need as many whole-numbered labels, got {classes.dtype} {list(classes.shape)}"
        )
    if classes.min() < 0 or classes.max() >= average.shape[1]:
        raise InputError(
            f"labels of {average.shape[1]} classes are from 0 to {average.shape[1] - 1}, "
            f"got {int(classes.min())} to {int(classes.max())}"
        )
    return average, classes.long()


def member_gaussians(mean: Any, variance: Any) -> tuple[Tensor, Tensor]:
    """Means and variances of members, float64 [S, N] each; [N] is one member.

    Raises:
        InputError: their shapes differ, or a variance is negative.
    """
    means = finite("means", mean, "[S, N] or [N]", (1, 2))
    variances = finite("variances", variance, "[S, N] or [N]", (1, 2))
    if means.shape != variances.shape:
        raise InputError(f"every mean needs a variance, got {list(means.shape)} and {list(variances.shape)}")
    if (variances < 0.0).any():
        raise InputError(f"a variance cannot be negative, got {float(variances.min()):g}: give it, not its logarithm")
    return torch.atleast_2d(means), torch.atleast_2d(variances)


def targets_of(targets: Any, examples: int) -> Tensor:
    """Targets, float64 [N].

    Raises:
        InputError: there are more or fewer than predictions.
    """
    given = finite("targets", targets, "[N]", (1,))
    if len(given) != examples:
        raise InputError(f"{examples} predictions need as many targets, got {len(given)}")
    return given


def paired(first_name: str, first: Any, second_name: str, second: Any) -> tuple[Tensor, Tensor]:
    """Two float64 [N] that belong together.

    Raises:
        InputError: they differ in length.
    """
    one, other = finite(first_name, first, "[N]", (1,)), finite(second_name, second, "[N]", (1,))
    if one.shape != other.shape:
        raise InputError(f"{first_name} and {second_name} belong together, got {len(one)} and {len(other)}")
    return one, other


def finite(name: str, values: Any, form: str, axes: tuple[int, ...]) -> Tensor:
    """The values as a detached float64 tensor.

    Args:
        name: of what they are, in the plural.
        values: a tensor, an array or nested lists.
        form: the shape that is expected, for the message.
        axes: how many axes there may be.

    Raises:
        InputError: they are no numbers, empty, of another shape, or not finite.
    """
    try:
        given = torch.as_tensor(values).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be numbers {form} ({error})") from error
    if given.ndim not in axes or not given.numel():
        raise InputError(f"{name} must be {form} and not empty, got shape {list(given.shape)}")
    if not torch.isfinite(given).all():
        raise InputError(f"{int((~torch.isfinite(given)).sum())} of {given.numel()} {name} are not finite")
    return given
