"""Recipe fashion: rows and figures by hand, every method on few images, a short run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.data.fashion_mnist import DEBIAN_FOLDER
from edge_bdl_train.data.mnist import MNIST_FOLDER
from edge_bdl_train.evaluation.classification import accuracy
from edge_bdl_train.fit import Data
from edge_bdl_train.recipes.fashion import TABLE_FILE, FashionConfig, FashionStudy, Row, draw, figures_of, judged
from edge_bdl_train.recipes.image_methods import POINT, choose, contenders, fitted

pytest.importorskip("torchmetrics")


def stripes(count: int, seed: int) -> Data:
    """Ten classes: a bright stripe at one of ten heights, in noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 10
    x = 0.3 * torch.rand(count, 1, 28, 28, generator=generator)
    for row, label in enumerate(y.tolist()):
        x[row, 0, 2 * label + 4 : 2 * label + 6] += 0.7
    return x, y


def outsiders(count: int) -> Tensor:
    """The stripes on end."""
    return stripes(count, 5)[0].transpose(2, 3).contiguous()


def row(method: str, members: int, **settings: object) -> Row:
    return Row(
        **{"method": method, "members": members, "accuracy": 0.9, "nll": 0.3, "ece": 0.02, "auroc": {}, **settings}
    )


@pytest.fixture(scope="module")
def every_method() -> dict[str, list[Row]]:
    train, test, outside = stripes(200, 0), stripes(50, 1), outsiders(50)
    known = contenders(30, 4, 4)
    return {
        each.label: judged(each, posterior, train, test, outside, 0)
        for each, posterior in fitted(known, train, batch_size=50, seed=0)
    }


def test_every_method_learns_and_is_judged_for_all_its_numbers_of_members(every_method: dict[str, list[Row]]) -> None:
    assert list(every_method) == [each.label for each in contenders(1, 2, 1)]
    numbers = {label: [row.members for row in rows] for label, rows in every_method.items()}
    all_of_them = [1, 2, 4, 8, 16, 32]
    assert numbers.pop(POINT) == [1]
    assert numbers.pop("ensemble of 5") == [1, 2, 4, 5]
    assert numbers.pop("masksembles") == [1, 2, 4]
    assert numbers.pop("SGHMC") == [1, 2, 4, 8, 16]
    assert numbers.pop("dropout") == numbers.pop("concrete dropout") == [0, *all_of_them]
    assert set(map(tuple, numbers.values())) == {tuple(all_of_them)}
    # Mean field and the walks have had four times four steps on top of the point estimate's.
    learned = {label: rows[-1].accuracy for label, rows in every_method.items()}
    assert all(share > 0.5 for share in learned.values()), learned


def test_disagreement_needs_two_and_density_is_the_same_for_all_numbers(every_method: dict[str, list[Row]]) -> None:
    for rows in every_method.values():
        for each in rows:
            assert ("epistemic" in each.auroc) == (each.members > 1)
            assert each.auroc["density"] == rows[0].auroc["density"]
        # Lying stripes and standing ones differ in their features, whatever the method.
        assert rows[0].auroc["density"] > 0.9


def test_fewer_members_are_the_first_of_more(every_method: dict[str, list[Row]]) -> None:
    train, test = stripes(200, 0), stripes(50, 1)
    ((each, posterior),) = fitted(contenders(30, 4, 4)[1:2], train, batch_size=50, seed=0)
    assert each.label == "dropout"
    logits = posterior.predict(test[0], 32, torch.Generator().manual_seed(0))
    for row_ in every_method["dropout"][1:]:
        assert row_.accuracy == pytest.approx(accuracy(logits[: row_.members].softmax(-1), test[1]))
    alone = posterior.answer(test[0], posterior.mean())
    assert every_method["dropout"][0].accuracy == pytest.approx(accuracy(alone.softmax(-1), test[1]))


def test_methods_that_tune_start_where_the_point_estimate_ended() -> None:
    train = stripes(50, 0)
    known = contenders(1, 2, 1)
    posteriors = {
        each.label: posterior for each, posterior in fitted(choose(["Laplace"], known), train, batch_size=50, seed=0)
    }
    for name, tensor in posteriors[POINT].network.state_dict().items():
        assert torch.equal(tensor, posteriors["Laplace"].network.state_dict()[name])


def test_figures_are_of_the_number_nearest_to_the_headline_and_say_what_dropout_does_to_the_calibration() -> None:
    rows = [
        row("dropout", 0, ece=0.03),
        row("dropout", 1),
        row("dropout", 16, ece=0.05, auroc={"density": 0.97, "epistemic": 0.8}),
        row("dropout", 32),
        row("ensemble of 5", 4),
        row("ensemble of 5", 5, accuracy=0.95, auroc={"epistemic": 0.8}),
    ]
    figures = {figure.what: figure for figure in figures_of(rows)}
    worse = figures["dropout, 16 members: test ECE less that of one pass without dropout, points of %"]
    assert worse.values == pytest.approx((2.0,))
    assert worse.reached is False
    assert figures["ensemble of 5, 5 members: test accuracy, %"].values == (95.0,)
    by = "AUROC of MNIST as outsider by"
    assert figures[f"dropout, 16 members: {by} density"].reached is True
    assert figures[f"dropout, 16 members: {by} epistemic"].reached is False
    assert figures[f"ensemble of 5, 5 members: {by} epistemic"].reached is None
    assert not any("one pass" in what for what in figures if what.startswith("ensemble"))


def test_every_method_is_drawn(tmp_path: Path, every_method: dict[str, list[Row]]) -> None:
    draw(tmp_path / "fashion.png", [row for rows in every_method.values() for row in rows])
    assert (tmp_path / "fashion.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not (MNIST_FOLDER.is_dir() and DEBIAN_FOLDER.is_dir()), reason="no MNIST or no Fashion-MNIST")
def test_a_short_run_leaves_its_table_and_its_plot(tmp_path: Path) -> None:
    study = FashionStudy(FashionStudy.quick_config())
    figures = study.record(tmp_path)
    rows = msgspec.json.decode((tmp_path / TABLE_FILE).read_bytes(), type=list[Row])
    assert list(dict.fromkeys(row.method for row in rows)) == [POINT, "dropout", "Laplace"]
    assert figures == figures_of(rows)
    assert min(row.accuracy for row in rows) > 0.25  # of ten kinds of clothes chance knows 0.1
    assert (tmp_path / "fashion.png").exists()


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings, message in (
        ({"epochs": 0}, "at least 1"),
        ({"tuning": 1}, "tuning at least 2"),
        ({"test_images": -1}, "at least 1"),
        ({"methods": ("magic",)}, "no method magic: expected of point"),
    ):
        with pytest.raises(InputError, match=message):
            FashionConfig(**settings)
