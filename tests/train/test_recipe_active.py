"""Recipe active: its figures and what they compare with, a short run that goes on where it was, a faster prediction."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edge_bdl.errors import InputError
from edge_bdl_train.active.state import Curve
from edge_bdl_train.data.mnist import MNIST_FOLDER
from edge_bdl_train.methods.dropout import DropoutPosterior, dropout_posterior
from edge_bdl_train.methods.point import PointPosterior
from edge_bdl_train.recipes.active import ActiveConfig, ActiveStudy, network
from edge_bdl_train.recipes.base import seeded
from edge_bdl_train.recipes.images import after_trunk, few, lenet, pixels


def test_figures_say_where_a_level_was_reached_and_count_a_run_that_never_was() -> None:
    curve = Curve((20, 30, 40), (0.5, 0.92, 0.91))
    levels = ActiveStudy()._figures("bald", curve)
    assert [figure.values[0] for figure in levels] == [30, 50, 50, pytest.approx(91.0)]
    assert [figure.published for figure in levels] == [145, 335, None, 98.0]
    assert [figure.reached for figure in levels] == [True, True, None, False]
    # Nothing was published of BatchBALD in that table.
    assert [figure.published for figure in ActiveStudy()._figures("batch_bald", curve)] == [None] * 4


@pytest.mark.skipif(not MNIST_FOLDER.is_dir(), reason="no MNIST; python -m edge_bdl_train.data.mnist")
def test_a_short_run_beats_chance_leaves_a_plot_and_is_not_made_twice(tmp_path: Path) -> None:
    study = ActiveStudy(ActiveStudy.quick_config())
    figures = study.record(tmp_path, seed=1)
    accuracy = {figure.what: figure.mean for figure in figures if "test accuracy with 50 labels" in figure.what}
    assert len(accuracy) == 2
    assert min(accuracy.values()) > 30.0  # of ten digits chance knows 10 %
    assert (tmp_path / "active.png").read_bytes().startswith(b"\x89PNG")
    state = tmp_path / "bald.state"
    before = state.stat().st_mtime_ns
    assert study.record(tmp_path, seed=1) == figures
    assert state.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="another run"):
        study.record(tmp_path, seed=2)


def test_no_strategies_and_too_many_test_images_are_refused() -> None:
    for settings in ({"strategies": ()}, {"test_images": 0}, {"test_images": 10_001}):
        with pytest.raises(InputError, match="expected strategies"):
            ActiveConfig(**settings)


def test_pixels_are_as_white_as_asked() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).repeat_interleave(784).view(3, 28, 28).numpy()
    values = pixels(images, 2.0)
    assert values.shape == (3, 1, 28, 28)
    torch.testing.assert_close(values[:, 0, 3, 5], torch.tensor([0.0, 0.4, 2.0]))


def test_few_rows_are_different_ones_with_their_own_labels() -> None:
    data = (torch.arange(20.0)[:, None], torch.arange(20))
    x, y = few(data, 7, torch.Generator().manual_seed(0))
    assert len(set(y.tolist())) == 7
    assert torch.equal(x[:, 0].long(), y)
    assert few(data, None, torch.Generator()) is data


def test_the_network_has_dropout_only_where_it_has_a_rate() -> None:
    rates = [layer.p for layer in network() if isinstance(layer, nn.Dropout)]
    assert rates == [0.25, 0.5]
    assert not any(isinstance(layer, nn.Dropout) for layer in lenet())
    assert lenet()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_what_comes_before_the_dropout_is_the_same_computed_once() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(30, 1, 28, 28, generator=generator)
    plain = seeded(0, network)
    posterior = dropout_posterior(DropoutPosterior, plain, {}, [(x, x)])
    whole = posterior.predict(x, 5, torch.Generator().manual_seed(3))
    assert whole.std(0).max() > 1e-3
    # One matrix product in another order of its rows: float32 rounding.
    torch.testing.assert_close(
        after_trunk(posterior, x, 5, torch.Generator().manual_seed(3)), whole, rtol=1e-5, atol=1e-6
    )


def test_a_posterior_without_dropout_predicts_in_its_own_way() -> None:
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    posterior = PointPosterior(seeded(0, lenet), {})
    assert torch.equal(after_trunk(posterior, x, 2, torch.Generator()), posterior.predict(x, 2, torch.Generator()))
