"""Recipes: the table, a whole quick run, the shipped checkpoint, and frames that no two sets share."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from edge_bdl.errors import InputError
from edge_bdl_train.carracing.environment import DrivingEnvironment
from edge_bdl_train.carracing.episodes import collect_closed_loop
from edge_bdl_train.carracing.expert import Expert
from edge_bdl_train.checkpoint import CheckpointError, CheckpointInfo, read_info, save_checkpoint
from edge_bdl_train.methods.point import PointPosterior
from edge_bdl_train.posterior_file import save_posterior
from edge_bdl_train.recipes import RECIPES, open_recipe, recipe_of
from edge_bdl_train.recipes import carracing as carracing_recipe
from edge_bdl_train.recipes.base import steer_with
from edge_bdl_train.recipes.carracing import SHIPPED_CHECKPOINT, CarRacingConfig, CarRacingRecipe


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CheckpointInfo]:
    path = tmp_path_factory.mktemp("quick") / "quick.safetensors"
    return path, open_recipe("carracing", quick=True).train(path, seed=1)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_name_in_the_table_opens_its_recipe(name: str) -> None:
    for is_quick in (False, True):
        recipe = open_recipe(name, quick=is_quick)
        assert recipe.name == name
        assert msgspec.convert(msgspec.to_builtins(recipe.config), recipe.config_type) == recipe.config
        assert not recipe.build_model(seed=0).training


def test_an_unknown_recipe_and_data_that_is_not_needed_are_refused() -> None:
    with pytest.raises(InputError, match="carracing, rc_car"):
        open_recipe("boat")
    with pytest.raises(InputError, match="makes its own data"):
        open_recipe("carracing", data=Path("anywhere"))


def test_a_recipe_trains_a_network_that_loads_again(quick: tuple[Path, CheckpointInfo]) -> None:
    path, info = quick
    assert read_info(path) == info
    assert info.seed == 1
    assert info.figures["train_frames"] == 300
    model = open_recipe("carracing").load(path)  # its own config, not the default one, builds the network
    assert not model.training
    assert model(torch.zeros(2, 96, 96, 3, dtype=torch.uint8)).shape == (2, 2)


def test_a_checkpoint_of_another_recipe_is_refused(quick: tuple[Path, CheckpointInfo]) -> None:
    with pytest.raises(CheckpointError, match="recipe 'carracing', expected 'rc_car'"):
        open_recipe("rc_car").load(quick[0])


def test_arguments_that_do_not_fit_the_recipe_are_refused(tmp_path: Path) -> None:
    recipe = open_recipe("carracing")
    info = CheckpointInfo(recipe="carracing", model="SmallCnn", arguments={"dropout": "much"}, figures={}, seed=0)
    save_checkpoint(tmp_path / "odd.safetensors", recipe.build_model(0), info)
    with pytest.raises(CheckpointError, match="arguments"):
        recipe.load(tmp_path / "odd.safetensors")


def test_a_posteriors_file_builds_its_network_as_the_recipe_that_made_it(tmp_path: Path) -> None:
    path = tmp_path / "posterior.safetensors"
    made = CarRacingRecipe(CarRacingConfig(dropout=0.4))
    network = made.build_model(seed=5)
    save_posterior(path, PointPosterior(network, {}), origin=made.origin(5))
    assert recipe_of(path) == "carracing"
    loaded = CarRacingRecipe().load_posterior(path)
    assert {module.p for module in loaded.network.modules() if isinstance(module, nn.Dropout)} == {0.4}
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in loaded.mean().items())
    with pytest.raises(CheckpointError, match="is a posterior of recipe 'carracing', expected 'rc_car'"):
        open_recipe("rc_car").load_posterior(path)


def test_a_posterior_of_a_checkpoints_network_has_the_checkpoints_origin(
    quick: tuple[Path, CheckpointInfo], tmp_path: Path
) -> None:
    recipe = open_recipe("carracing")
    path = tmp_path / "posterior.safetensors"
    save_posterior(path, PointPosterior(recipe.load(quick[0]), {}), origin=quick[1].origin)
    frames = torch.zeros(2, 96, 96, 3, dtype=torch.uint8)
    loaded = recipe.load_posterior(path)
    assert torch.equal(loaded.run(frames, loaded.mean()), recipe.load(quick[0])(frames))
    assert recipe_of(path) == recipe_of(quick[0]) == "carracing"


def test_a_posterior_that_does_not_say_where_it_is_from_needs_a_recipes_name(tmp_path: Path) -> None:
    path = tmp_path / "posterior.safetensors"
    save_posterior(path, PointPosterior(CarRacingRecipe().build_model(0), {}))
    with pytest.raises(InputError, match=r"posterior\.safetensors does not say which recipe built its network"):
        recipe_of(path)
    assert open_recipe("carracing").load_posterior(path).kind == "point"


def test_a_mistyped_folder_is_noticed_before_the_training(tmp_path: Path) -> None:
    def stage(label: str, total: int) -> None:
        raise AssertionError("work has begun")

    with pytest.raises(CheckpointError, match="there is no folder"):
        open_recipe("carracing").train(tmp_path / "nowhere" / "a.safetensors", stage=stage)


def test_the_tracks_of_all_purposes_differ() -> None:
    config = CarRacingConfig()
    seeds = {
        name: getattr(carracing_recipe, f"{name}_SEEDS")
        for name in ("TRAIN", "VALIDATION", "SELECTION", "CALIBRATION", "TEST")
    }
    for first, second in itertools.combinations(seeds.values(), 2):
        assert not set(first) & set(second)
    assert min(map(min, seeds.values())) >= 1_000
    assert config.train_tracks <= len(seeds["TRAIN"])


def test_calibration_sets_are_disjoint_drives_in_sequence(quick: tuple[Path, CheckpointInfo]) -> None:
    recipe = open_recipe("carracing", quick=True)
    sets = recipe.calibration_sets(recipe.load(quick[0]))
    parts = (sets.selection, sets.calibration, sets.test)
    assert all(len(part) > 20 for part in parts)
    assert all(np.all(np.diff(part.episode) >= 0) for part in parts)
    assert sets.period_s == pytest.approx(0.02)
    seen = [{frame.tobytes() for frame in part.frames} for part in parts]
    for first, second in itertools.combinations(seen, 2):
        assert not first & second
    # Neighbours in time look alike; the last frame of an episode and the first of the next do not.
    steps = np.abs(np.diff(sets.calibration.frames.astype(float), axis=0)).mean(axis=(1, 2, 3))
    borders = np.flatnonzero(np.diff(sets.calibration.episode))
    assert len(borders) == recipe.config.calibration_drives[0] - 1
    assert steps[borders].min() > 3.0 * np.median(steps)


def test_the_shipped_checkpoint_is_the_recipes_own_and_drives_unseen_tracks() -> None:
    info = read_info(SHIPPED_CHECKPOINT)
    assert os.path.getsize(SHIPPED_CHECKPOINT) < 3_000_000
    # It was trained as the recipe trains now; how many drives there are to calibrate on may have changed since.
    drives = {"selection_drives": (1, 1), "calibration_drives": (1, 1), "test_drives": (1, 1)}
    assert replace(msgspec.convert(info.arguments, CarRacingConfig), **drives) == replace(CarRacingConfig(), **drives)
    assert info.figures["drive_off_track_share"] < 0.02
    model = CarRacingRecipe().load(SHIPPED_CHECKPOINT)
    _, figures = collect_closed_loop(
        DrivingEnvironment(), steer_with(model), seeds=(0, 1), steps=500, target_speed=30.0, expert=Expert()
    )
    assert figures.off_track_share < 0.02
    assert figures.mean_speed > 25.0
