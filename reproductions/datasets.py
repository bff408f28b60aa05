"""Public data sets with the splits of the papers."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.io import loadmat

from lowerbound import noise
from lowerbound.coding.rows import Rows, subset
from reproductions.files import Arrays, File, Packed
from reproductions.sprites import Sprites

_HEADER = 16  # bytes of the header of an IDX file of images
_FREY_SEEDS = (123, 321, 231)

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Parts:
    """A data set: images, (n, height, width), with values 0 to 255 or 0 and 1; or rows.

    Attributes:
        train: for training.
        valid: for the choice of the weights; not used by the evaluation.
        test: for the evaluation.
    """

    train: Images | Rows
    valid: Images | Rows
    test: Images | Rows


def _idx(file: File) -> Images:
    raw = gzip.decompress(file.bytes())
    count, height, width = np.frombuffer(raw, ">i4", 3, 4)
    return np.frombuffer(raw, np.uint8, offset=_HEADER).reshape(count, height, width)


def _digits(files: tuple[File, File], seed: int, *, valid: int) -> Parts:
    """Return the official split of an IDX data set, its last `valid` training rows held out."""
    kept, tested = map(_idx, files)
    return Parts(kept[:-valid], kept[-valid:], tested)


def _digit_files(folder: str, address: str, home: str, train: str, test: str) -> tuple[File, File]:
    first, second = (f"{part}-images-idx3-ubyte.gz" for part in ("train", "t10k"))
    return (
        File(f"{folder}/{first}", train, home, address + first),
        File(f"{folder}/{second}", test, home, address + second),
    )


_MNIST = _digit_files(
    "mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "71524e2cd1ad2968737f7f2f2ff69cbfc32df8ccddff51593f7cb2d4e0eb5b64",
    "5634745efa576a17e7d4cf5cd9d09123c75e6538e5114267c2d156edaf519341",
)
_FASHION = _digit_files(
    "fashion_mnist",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist",
    "a26751d72d89606ffbfdd4dd5d16911f01e93a7ff4783c95da7307a073d79fa7",
    "78cb45a589ec14266eab4ac0cb2e9e10a4c076ae2d337fe86383d761bff83f32",
)


def _amat(texts: Sequence[bytes]) -> Arrays:
    """Return the three parts of Larochelle's text files, with one row of 784 bits per line."""
    parts = {}
    for name, text in zip(("train", "valid", "test"), texts, strict=True):
        digits = np.frombuffer(text, np.uint8)
        digits = digits[(digits == ord("0")) | (digits == ord("1"))] - ord("0")
        parts[name] = np.packbits(digits.reshape(-1, 784), axis=1)
    return parts


_HOME = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
_STATIC = Packed(
    "mnist_static_binarized/binarized_mnist_packed.npz",
    "c462f82a020638a4d5d8d44e4c83242ee0145ee1d125869d0e030c35011837e6",
    ("train", "valid", "test"),
    _HOME,
    [f"{_HOME}binarized_mnist_{part}.amat" for part in ("train", "valid", "test")],
    _amat,
)


def _static_mnist(seed: int) -> Parts:
    """Return the binarisation of Larochelle & Murray (2011): 50,000, 10,000 and 10,000 rows."""
    packed = _STATIC.arrays().values()
    return Parts(*(np.unpackbits(part, axis=1)[:, :784].reshape(-1, 28, 28) for part in packed))


def _mat(files: Sequence[bytes]) -> Arrays:
    """Return Roweis' faces as images; the file has one column of 560 pixels per face."""
    columns = loadmat(BytesIO(files[0]))["ff"]
    return {"images": np.ascontiguousarray(columns.T.astype(np.uint8).reshape(-1, 28, 20))}


_FREY = Packed(
    "frey_faces/frey_faces.npz",
    "2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78",
    ("images",),
    "https://cs.nyu.edu/~roweis/data.html",
    ["https://cs.nyu.edu/~roweis/data/frey_rawface.mat"],
    _mat,
)


def _frey_faces(seed: int) -> Parts:
    """Return 1,565, 200 and 200 grey faces in the order of a seed of van den Berg et al."""
    images = _FREY.arrays()["images"]
    order = np.random.RandomState(_FREY_SEEDS[seed % 3])  # noqa: NPY002 - as in the papers
    images = images[order.permutation(len(images))]
    return Parts(images[:1565], images[1565:1765], images[1765:])


def _sprites(seed: int) -> Parts:
    """Return the sprites in a random order."""
    sprites = Sprites()
    order = torch.randperm(len(sprites), generator=noise.generator("sprites", seed))
    train, valid, test = order.split([len(order) - 4000, 2000, 2000])
    return Parts(subset(sprites, train), subset(sprites, valid), subset(sprites, test))


# The parts of a data set for a seed; most have one official split for all seeds.
DATASETS: dict[str, Callable[[int], Parts]] = {
    "mnist": partial(_digits, _MNIST, valid=10_000),
    "mnist-all": partial(_digits, _MNIST, valid=400),
    "static-mnist": _static_mnist,
    "fashion-mnist": partial(_digits, _FASHION, valid=10_000),
    "frey-faces": _frey_faces,
    "sprites": _sprites,
}

# The files of each data set.
FILES: dict[str, Sequence[File | Packed]] = {
    "mnist": _MNIST,
    "mnist-all": _MNIST,
    "static-mnist": (_STATIC,),
    "fashion-mnist": _FASHION,
    "frey-faces": (_FREY,),
    "sprites": (),
}
