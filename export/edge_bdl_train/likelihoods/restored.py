"""A likelihood out of what a posterior's settings say of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edge_bdl.errors import InputError
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from edge_bdl_train.likelihoods.histogram import Histogram
from edge_bdl_train.likelihoods.mixture_density import MixtureDensity
from edge_bdl_train.likelihoods.student_t import StudentT

_PLAIN: dict[str, type[Likelihood]] = {
    kind.__name__: kind for kind in (Categorical, HeteroscedasticGaussian, Histogram, MixtureDensity, StudentT)
}


def restored(description: Mapping[str, Any]) -> Likelihood | None:
    """The likelihood that ``methods.described.described`` described; None for a class that is not of this package.

    Raises:
        InputError: it is one of this package's, but its values make no sense.
    """
    values = dict(description)
    name = values.pop("class", None)
    try:
        if name == Gaussian.__name__:
            return Gaussian(msgspec.convert(values.get("noise"), float))
        return msgspec.convert(values, _PLAIN[name]) if name in _PLAIN else None
    except msgspec.ValidationError as error:
        raise InputError(f"the posterior's likelihood {name} cannot be restored ({error}): fit it again") from error
