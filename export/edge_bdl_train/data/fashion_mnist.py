"""Fashion-MNIST (Xiao et al. 2017), from Debian's package: ten kinds of clothes, 60,000 and 10,000 images."""

from __future__ import annotations

from pathlib import Path

from edge_bdl_train.data.idx import LabelledImages, load_images

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_SHA256 = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}


def load_fashion_mnist(folder: Path = DEBIAN_FOLDER) -> tuple[LabelledImages, LabelledImages]:
    """Training and test images.

    Raises:
        InputError: a file is missing or damaged.
    """
    return load_images(folder, _SHA256, "install Debian's package dataset-fashion-mnist")
