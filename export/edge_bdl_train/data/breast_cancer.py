"""Breast cancer Wisconsin (Street et al. 1993), as scikit-learn ships it: 569 biopsies, malignant or benign."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import require

MALIGNANT, BENIGN = 0, 1


class Biopsies(NamedTuple):
    """Measurements of cell nuclei, and what they turned out to be.

    Attributes:
        features: float64 [N, 30].
        labels: int64 [N], ``MALIGNANT`` or ``BENIGN``.
    """

    features: NDArray[np.float64]
    labels: NDArray[np.int64]


def load_breast_cancer() -> Biopsies:
    """All 569, in scikit-learn's order.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    datasets: Any = require("sklearn.datasets", "studies", "for the breast cancer data")
    features, labels = datasets.load_breast_cancer(return_X_y=True)
    return Biopsies(features, labels.astype(np.int64))
