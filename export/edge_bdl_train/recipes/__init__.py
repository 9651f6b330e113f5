"""Recipes: everything that it takes to train one network, from its data to its checkpoint, under one name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_bdl.errors import InputError
from edge_bdl_train.checkpoint import read_info
from edge_bdl_train.posterior_file import is_posterior_file, read_posterior_info
from edge_bdl_train.recipes.base import Recipe
from edge_bdl_train.recipes.study import Study

RECIPES = {
    "carracing": "edge_bdl_train.recipes.carracing:CarRacingRecipe",
    "rc_car": "edge_bdl_train.recipes.rc_car:RcCarRecipe",
}
"""Those that end in a checkpoint."""

STUDIES = {
    "active": "edge_bdl_train.recipes.active:ActiveStudy",
    "adversarial": "edge_bdl_train.recipes.adversarial:AdversarialStudy",
    "coin": "edge_bdl_train.recipes.coin:CoinStudy",
    "continual": "edge_bdl_train.recipes.continual:ContinualStudy",
    "explore": "edge_bdl_train.recipes.explore:ExploreStudy",
    "fashion": "edge_bdl_train.recipes.fashion:FashionStudy",
    "forecast": "edge_bdl_train.recipes.forecast:ForecastStudy",
    "mnist": "edge_bdl_train.recipes.mnist:MnistStudy",
    "referral": "edge_bdl_train.recipes.referral:ReferralStudy",
    "rings": "edge_bdl_train.recipes.rings:RingsStudy",
    "small-data": "edge_bdl_train.recipes.small_data:SmallDataStudy",
    "toy1d": "edge_bdl_train.recipes.toy1d:Toy1dStudy",
    "uci": "edge_bdl_train.recipes.uci:UciStudy",
}
"""Those that end in figures, printed beside the published ones."""


def open_recipe(name: str, *, quick: bool = False, data: Path | None = None) -> Recipe:
    """The recipe of this name.

    Args:
        name: a key of ``RECIPES``.
        quick: with its quick config: minutes become seconds, and the network is not worth shipping.
        data: folder with the recipe's data, for recipes that do not make their own.

    Raises:
        InputError: no recipe has this name, or it takes no data.
    """
    recipe: Recipe = _open(RECIPES, name, quick, data)
    return recipe


def recipe_of(path: Path) -> str:
    """The name of the recipe whose network a checkpoint or a posterior's file holds, as the file says.

    Raises:
        CheckpointError: the file is missing, damaged, or something else wrote it.
        InputError: it is a posterior that does not say.
    """
    origin = read_posterior_info(path).origin if is_posterior_file(path) else read_info(path).origin
    if origin is None:
        raise InputError(
            f"{path} does not say which recipe built its network: give --recipe, or save it with its origin"
        )
    return origin.recipe


def open_study(name: str, *, quick: bool = False, data: Path | None = None) -> Study:
    """The study of this name, a key of ``STUDIES``; everything else as for ``open_recipe``."""
    study: Study = _open(STUDIES, name, quick, data)
    return study


def _open(table: Mapping[str, str], name: str, quick: bool, data: Path | None) -> Any:
    if name not in table:
        raise InputError(f"there is no recipe {name!r}: expected one of {', '.join(table)}")
    module, _, attribute = table[name].partition(":")
    opened = getattr(importlib.import_module(module), attribute)
    return opened(opened.quick_config() if quick else None, data)
