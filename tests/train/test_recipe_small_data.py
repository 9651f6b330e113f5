"""Recipe small-data: what is compared, how long training is, and a short run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_bdl.errors import InputError
from edge_bdl_train.data.fashion_mnist import DEBIAN_FOLDER
from edge_bdl_train.recipes.image_methods import POINT
from edge_bdl_train.recipes.small_data import TABLE_FILE, Point, SmallDataConfig, SmallDataStudy, figures_of


def test_every_method_is_held_against_the_point_estimate_of_the_same_images() -> None:
    points = [
        Point(method=POINT, images=50, accuracy=0.6, nll=2.0),
        Point(method="dropout", images=50, accuracy=0.7, nll=1.5),
        Point(method=POINT, images=500, accuracy=0.8, nll=0.5),
        Point(method="dropout", images=500, accuracy=0.8, nll=0.6),
    ]
    figures = {figure.what: figure for figure in figures_of(points)}
    gains = [figures[f"dropout: test NLL less the point estimate's after {n} images, nats"] for n in (50, 500)]
    assert [gain.mean for gain in gains] == [pytest.approx(-0.5), pytest.approx(0.1)]
    assert [gain.reached for gain in gains] == [True, False]
    assert figures["dropout: test accuracy after 50 images, %"].mean == pytest.approx(70.0)
    assert sum("less the point" in what for what in figures) == 2


@pytest.mark.parametrize(
    ("images", "epochs", "tuning"), [(50, 600, 200), (64, 600, 200), (5_000, 8, 3), (60_000, 2, 2)]
)
def test_training_takes_as_many_steps_however_many_images_there_are(images: int, epochs: int, tuning: int) -> None:
    known = {each.label: each.epochs for each in SmallDataStudy().contenders(images)}
    assert (known[POINT], known["mean field"], known["Laplace"]) == (epochs, tuning, 0)


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="no Fashion-MNIST; apt install dataset-fashion-mnist")
def test_a_short_run_learns_more_from_more_and_leaves_its_table_and_its_plot(tmp_path: Path) -> None:
    config = SmallDataConfig(sizes=(20, 500), methods=("dropout",), steps=150, members=4, test_images=500)
    study = SmallDataStudy(config)
    figures = study.record(tmp_path)
    points = msgspec.json.decode((tmp_path / TABLE_FILE).read_bytes(), type=list[Point])
    assert figures == figures_of(points)
    assert [(each.method, each.images) for each in points] == [
        (POINT, 20),
        ("dropout", 20),
        (POINT, 500),
        ("dropout", 500),
    ]
    assert points[2].accuracy > points[0].accuracy > 0.2
    assert (tmp_path / "small_data.png").read_bytes().startswith(b"\x89PNG")


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings in ({"sizes": ()}, {"sizes": (0,)}, {"steps": 0}, {"test_images": -1}):
        with pytest.raises(InputError, match="at least 1"):
            SmallDataConfig(**settings)
    with pytest.raises(InputError, match="no method magic: expected of point"):
        SmallDataConfig(methods=("magic",))
