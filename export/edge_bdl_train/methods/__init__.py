"""Methods: how a network becomes a posterior, one per file.

Each file declares its parts in one order: ``Config``, ``build(network, likelihood, config, *, n_data, generator)``, its
trainee, its posterior.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from edge_bdl.errors import InputError
from edge_bdl_train.posterior import Posterior

# By the kind of its posterior: the method's module, and the posterior's class in it.
METHODS = {
    "concrete_dropout": "edge_bdl_train.methods.concrete_dropout:ConcreteDropoutPosterior",
    "dropout": "edge_bdl_train.methods.dropout:DropoutPosterior",
    "ensemble": "edge_bdl_train.methods.ensemble:EnsemblePosterior",
    "laplace": "edge_bdl_train.methods.laplace:LaplacePosterior",
    "masksembles": "edge_bdl_train.methods.masksembles:MasksemblesPosterior",
    "mean_field": "edge_bdl_train.methods.mean_field:MeanFieldPosterior",
    "multi_swag": "edge_bdl_train.methods.multi_swag:MultiSwagPosterior",
    "point": "edge_bdl_train.methods.point:PointPosterior",
    "sgmcmc": "edge_bdl_train.methods.sgmcmc:SgmcmcPosterior",
    "swag": "edge_bdl_train.methods.swag:SwagPosterior",
    "vbll": "edge_bdl_train.methods.vbll:VbllPosterior",
}


def open_method(name: str) -> ModuleType:
    """The module of this method, with its ``Config`` and ``build``.

    Raises:
        InputError: no method has this name.
    """
    return importlib.import_module(_entry(name)[0])


def open_posterior(kind: str) -> type[Posterior]:
    """The class of this kind of posterior.

    Raises:
        InputError: there is no such kind.
    """
    module, attribute = _entry(kind)
    found: type[Posterior] = getattr(importlib.import_module(module), attribute)
    return found


def _entry(name: str) -> tuple[str, str]:
    if name not in METHODS:
        raise InputError(f"there is no method {name!r}: expected one of {', '.join(METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    return module, attribute
