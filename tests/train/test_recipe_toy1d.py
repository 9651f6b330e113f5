"""Recipe toy1d: a point estimate is as sure everywhere, an ensemble is not; the figures' measures by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from edge_bdl.errors import InputError
from edge_bdl_train.data.toy1d import NOISE
from edge_bdl_train.methods import METHODS
from edge_bdl_train.recipes.toy1d import Toy1dConfig, Toy1dStudy, contenders, entropy_of, spread_of


def test_the_spread_is_that_of_noise_and_members() -> None:
    outputs = torch.tensor([[[1.0], [5.0]], [[3.0], [5.0]]])
    assert spread_of(outputs).tolist() == pytest.approx([math.sqrt(1.0 + NOISE**2), NOISE])


def test_the_entropy_is_that_of_the_averaged_probabilities() -> None:
    sure = torch.tensor([[[50.0, 0.0], [50.0, 0.0]], [[0.0, 50.0], [50.0, 0.0]]])
    assert entropy_of(sure).tolist() == pytest.approx([math.log(2.0), 0.0], abs=1e-6)


def test_every_method_is_in_the_picture() -> None:
    assert {each.method for each in contenders(1)} == set(METHODS)


def test_uncertainty_grows_away_from_the_data_but_for_a_point_estimate(tmp_path: Path) -> None:
    study = Toy1dStudy(Toy1dConfig(shorten=10, methods=("point", "ensemble")))
    figures = {figure.what: figure.mean for figure in study.record(tmp_path)}
    ratio = "predictive standard deviation {}, as a multiple of that among the data"
    for place in ("in the gap", "beyond the data"):
        assert figures[f"point: {ratio.format(place)}"] == pytest.approx(1.0)
        assert figures[f"ensemble: {ratio.format(place)}"] > 1.1
    assert figures["point: entropy beyond the data, nats"] < figures["point: entropy among the data, nats"]
    for plot in ("regression.png", "classification.png"):
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG")


def test_names_of_no_method_and_sizes_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected some of point, dropout"):
        Toy1dStudy(Toy1dConfig(methods=("magic",))).record(tmp_path)
    with pytest.raises(InputError, match="at least 1"):
        Toy1dConfig(points=0)
