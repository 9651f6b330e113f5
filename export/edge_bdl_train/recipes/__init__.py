"""Recipes: everything that it takes to train one network, from its data to its checkpoint, under one name."""

from __future__ import annotations

import importlib
from pathlib import Path

from edge_bdl.errors import InputError
from edge_bdl_train.recipes.base import Recipe

RECIPES = {
    "carracing": "edge_bdl_train.recipes.carracing:CarRacingRecipe",
    "rc_car": "edge_bdl_train.recipes.rc_car:RcCarRecipe",
}


def open_recipe(name: str, *, quick: bool = False, data: Path | None = None) -> Recipe:
    """The recipe of this name.

    Args:
        name: a key of ``RECIPES``.
        quick: with its quick config: minutes become seconds, and the network is not worth shipping.
        data: folder with the recipe's data, for recipes that do not make their own.

    Raises:
        InputError: no recipe has this name, or it takes no data.
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}: expected one of {', '.join(RECIPES)}")
    module, _, attribute = RECIPES[name].partition(":")
    recipe_type: type[Recipe] = getattr(importlib.import_module(module), attribute)
    return recipe_type(recipe_type.quick_config() if quick else None, data)
