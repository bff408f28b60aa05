"""The public data sets of the papers: where they are looked for, and their digests."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound import noise
from lowerbound.data.batches import Rows, subset
from lowerbound.data.sprites import Sprites
from lowerbound.errors import DataError

PLACE = "LOWERBOUND_DATA"  # the variable that names the folder of all data sets
_HEADER = 16  # bytes before the pixels of an IDX file of images

_FREY_SEEDS = (123, 321, 231)

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class File:
    """One file: its place below the data folder, its SHA-256, and its public home."""

    path: str
    sha256: str
    home: str

    def bytes(self) -> bytes:
        """Return what is in the file.

        Raises:
            DataError: E001 where there is none, E009 where it is another one.
        """
        folder = os.environ.get(PLACE)
        place = Path(folder or ".") / self.path
        try:
            found = place.read_bytes()
        except OSError:
            where = f"{place} is not there" if folder else f"{PLACE} is not set"
            raise DataError(
                "E001",
                f"the data set {self.path} was not found: {where}",
                fix=f"get it from {self.home}, put it at FOLDER/{self.path}, set {PLACE}=FOLDER",
                path=str(place),
                sha256=self.sha256,
            ) from None
        if hashlib.sha256(found).hexdigest() != self.sha256:
            raise DataError(
                "E009",
                f"{place} is not the published file: its SHA-256 is not {self.sha256[:12]}...",
                fix=f"get it again from {self.home}",
                path=str(place),
            )
        return found


@dataclass(frozen=True)
class Parts:
    """A data set: images, (n, height, width) with values 0 to 255, or 0 and 1; or rows of them.

    Attributes:
        train: to learn from.
        valid: decides which weights are kept; never looked at by the evaluation.
        test: evaluated.
    """

    train: Images | Rows
    valid: Images | Rows
    test: Images | Rows


def _idx(file: File) -> Images:
    raw = gzip.decompress(file.bytes())
    count, height, width = np.frombuffer(raw, ">i4", 3, 4)
    return np.frombuffer(raw, np.uint8, offset=_HEADER).reshape(count, height, width)


def _digits(folder: str, train: str, test: str, home: str, seed: int, *, valid: int) -> Parts:
    """Return the official split of an IDX data set, the last rows of train held out."""
    kept = _idx(File(f"{folder}/train-images-idx3-ubyte.gz", train, home))
    tested = _idx(File(f"{folder}/t10k-images-idx3-ubyte.gz", test, home))
    return Parts(kept[:-valid], kept[-valid:], tested)


MNIST = partial(
    _digits,
    "mnist",
    "71524e2cd1ad2968737f7f2f2ff69cbfc32df8ccddff51593f7cb2d4e0eb5b64",
    "5634745efa576a17e7d4cf5cd9d09123c75e6538e5114267c2d156edaf519341",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_FASHION = partial(
    _digits,
    "fashion_mnist",
    "a26751d72d89606ffbfdd4dd5d16911f01e93a7ff4783c95da7307a073d79fa7",
    "78cb45a589ec14266eab4ac0cb2e9e10a4c076ae2d337fe86383d761bff83f32",
    "https://github.com/zalandoresearch/fashion-mnist",
)


def _static_mnist(seed: int) -> Parts:
    """Return the binarisation of Larochelle & Murray (2011): 50,000, 10,000 and 10,000 rows."""
    file = File(
        "mnist_static_binarized/binarized_mnist_packed.npz",
        "50de2c8299a5a297789293ab2c30f6fc3cb8c359a15e5e88d5501aa18ebb8fa5",
        "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
    )
    with np.load(BytesIO(file.bytes())) as packed:
        parts = [
            np.unpackbits(packed[name], axis=1)[:, :784].reshape(-1, 28, 28)
            for name in ("train", "valid", "test")
        ]
    return Parts(*parts)


def _frey_faces(seed: int) -> Parts:
    """Return 1,565, 200 and 200 grey faces, in the orders of the papers' seeds (van den Berg)."""
    file = File(
        "frey_faces/frey_faces.npz",
        "3c70375e0a9c4751ad49ad5f1f692bd094c46f133cf4aa8ea77d1cb14e1efcd1",
        "https://cs.nyu.edu/~roweis/data.html",
    )
    with np.load(BytesIO(file.bytes())) as stored:
        images = stored["images"]
    order = np.random.RandomState(_FREY_SEEDS[seed % 3])  # noqa: NPY002 - that of the papers
    images = images[order.permutation(len(images))]
    return Parts(images[:1565], images[1565:1765], images[1765:])


def _sprites(seed: int) -> Parts:
    """Return sprites in a random order; all are drawn by code."""
    sprites = Sprites()
    order = torch.randperm(len(sprites), generator=noise.generator("sprites", seed))
    train, valid, test = order.split([len(order) - 4000, 2000, 2000])
    return Parts(subset(sprites, train), subset(sprites, valid), subset(sprites, test))


# The parts of a data set for a seed; most have one official split, whatever the seed.
DATASETS: dict[str, Callable[[int], Parts]] = {
    "mnist": partial(MNIST, valid=10_000),
    "mnist-all": partial(MNIST, valid=400),
    "static-mnist": _static_mnist,
    "fashion-mnist": partial(_FASHION, valid=10_000),
    "frey-faces": _frey_faces,
    "sprites": _sprites,
}
