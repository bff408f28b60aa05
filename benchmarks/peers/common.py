"""What every side of `throughput.py` shares: the data, the warm-up, the clock and the report.

It needs numpy only, because each side runs in an environment of its own. A side is a script
`run_NAME.py` with a function `train(work, data)`; it is started as

    python run_NAME.py '{"data": "bits", "rows": 19968, "batch": 128, "epochs": 5}'

and prints one line of JSON.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

HELD_OUT = 256  # rows beside the training rows, for sides that check on held-out ones
WARM_UP_STEPS = 20
LEARNING_RATE = 1e-3
GENES, GENE_LATENT, GENE_HIDDEN = 2_000, 10, 128
TABLE_HIDDEN, TABLE_LATENT = 128, 128  # CTGAN's defaults, for both sides of the mixed table

# Widths from x to z; the decoder mirrors them.
WIDTHS = {"bits": (784, 400, 20), "table": (30, 64, 32, 8)}
# Shape of an image, channels of the stride-2 convolutions, size of z.
IMAGES = {
    "images28": ((1, 28, 28), (32, 64), 32),
    "images64": ((3, 64, 64), (32, 64, 128), 32),
}
BERNOULLI = {"bits", "images28"}  # the other dense data are Gaussian with unit variance


@dataclass(frozen=True)
class Work:
    """What one side is to do, equal for all sides of a workload.

    Attributes:
        data: name of the data: a key of `WIDTHS` or `IMAGES`, "counts" or "mixed".
        rows: training rows, a multiple of `batch`.
        batch: rows per step.
        epochs: passes over the rows.
        seed: of data, weights and noise.
    """

    data: str
    rows: int
    batch: int
    epochs: int
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.epochs * (self.rows // self.batch)


@dataclass
class Outcome:
    """What one training took.

    Attributes:
        seconds: wall time of the training.
        samples: rows of the data set times passes over them.
        loss: mean negative ELBO at the end of training, nats per row, or None where the side's
            loss is something else.
        facts: what else is worth telling.
    """

    seconds: float
    samples: int
    loss: float | None
    facts: dict[str, Any] = field(default_factory=dict)


def nats_beside(data: str) -> float:
    """Return the constant that hand-written losses leave out: the Gaussian's log(2 pi) / 2."""
    if data in BERNOULLI:
        return 0.0
    columns = math.prod(IMAGES[data][0]) if data in IMAGES else WIDTHS[data][0]
    return 0.5 * math.log(2 * math.pi) * columns


class Clock:
    """Seconds of a `with` block."""

    seconds = 0.0

    def start(self) -> None:
        self.began = time.perf_counter()

    def stop(self) -> None:
        self.seconds = time.perf_counter() - self.began

    def __enter__(self) -> Clock:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def report(train: Callable[[Work, Any], Outcome], packages: Sequence[str]) -> None:
    """Do the work of the command line with a fresh model, after a warm-up; print what it took.

    The warm-up is a fit of its own, of a few steps. `startup_seconds` is what it took beyond
    its steps' own time: late imports, compiling, choosing kernels, and what the side does around
    training. A mixed table is fitted cold, since the whole fit is what is measured there.
    """
    work = Work(**json.loads(sys.argv[1]))
    data = dataset(work)
    startup = {}
    with _quiet():
        if work.data != "mixed":
            with Clock() as clock:
                warm = _warm_up(train, work, data)
        done = train(work, data)
    speed = done.samples / done.seconds
    if work.data != "mixed":
        startup["startup_seconds"] = round(max(0.0, clock.seconds - warm.samples / speed), 3)
    document = asdict(done) | {"samples_per_second": speed, "facts": startup | done.facts}
    versions = {name: importlib.metadata.version(name) for name in packages}
    print(json.dumps({**document, "versions": {"python": platform.python_version(), **versions}}))


def _warm_up(train: Callable[[Work, Any], Outcome], work: Work, data: Any) -> Outcome:
    rows = min(work.rows, WARM_UP_STEPS * work.batch)
    few = data[: rows + HELD_OUT]
    return train(replace(work, rows=rows, epochs=1), few)


@contextmanager
def _quiet() -> Iterator[None]:
    """Send what libraries print to the error output: the last line is for the report."""
    kept, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout = kept


def dataset(work: Work) -> Any:
    """Return `work.rows` training rows and then `HELD_OUT` more; of a mixed table, its columns."""
    source, n = np.random.default_rng(work.seed), work.rows + HELD_OUT
    if work.data == "mixed":
        return mixed_columns(source, work.rows)
    if work.data == "images64":
        return textures(source, n)
    if work.data == "images28":
        return bits(source, n).reshape(n, 1, 28, 28)
    return {"bits": bits, "table": correlated, "counts": cells}[work.data](source, n)


def bits(source: np.random.Generator, n: int) -> np.ndarray:
    """Return binarised MNIST where LOWERBOUND_DATA has it, else random bits; (n, 784)."""
    path = mnist()
    if path is None:
        return (source.random((n, 784), dtype=np.float32) < 0.13).astype(np.float32)
    with np.load(path) as file:
        packed = file["train"][:n]
    return np.unpackbits(packed, axis=1)[:, :784].astype(np.float32)


def mnist() -> Path | None:
    """Return where the binarised MNIST lies, or None."""
    path = Path(os.environ.get("LOWERBOUND_DATA", ""), "mnist_static_binarized")
    file = path / "binarized_mnist_packed.npz"
    return file if file.is_file() else None


def correlated(source: np.random.Generator, n: int) -> np.ndarray:
    """Return standardised numbers that a few factors explain, (n, 30)."""
    factors = source.standard_normal((n, 5)) @ source.standard_normal((5, 30))
    x = np.tanh(factors) + 0.3 * source.standard_normal((n, 30))
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32)


def textures(source: np.random.Generator, n: int) -> np.ndarray:
    """Return coarse coloured patches with noise, (n, 3, 64, 64)."""
    coarse = source.standard_normal((n, 3, 8, 8), dtype=np.float32)
    x = coarse.repeat(8, axis=2).repeat(8, axis=3)
    x += 0.3 * source.standard_normal(x.shape, dtype=np.float32)
    return x


def cells(source: np.random.Generator, n: int) -> np.ndarray:
    """Return over-dispersed counts of genes, (n, GENES) float32; nine in ten are zero."""
    factors = source.standard_normal((n, 10)) @ source.standard_normal((10, GENES)) * 0.3
    usual = source.normal(-4.0, 1.5, GENES)
    library = source.normal(0.0, 0.4, (n, 1))
    rate = np.exp(factors + usual + library) * source.gamma(2.0, 0.5, (n, GENES))
    return source.poisson(rate).astype(np.float32)


def mixed_columns(source: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Return seven columns of numbers and eight of categories with 2 to 20 levels."""
    factors = source.standard_normal((n, 4))
    mixing = source.standard_normal((4, 7))
    numbers = factors @ mixing + 0.3 * source.standard_normal((n, 7))
    numbers[:, 0] = np.exp(numbers[:, 0])
    numbers[:, 1] = np.where(numbers[:, 1] > 0, numbers[:, 1] + 4.0, numbers[:, 1])
    columns = {f"number{i}": numbers[:, i] for i in range(7)}
    for i, levels in enumerate((2, 2, 3, 5, 7, 9, 14, 20)):
        scores = factors @ source.standard_normal((4, levels)) + source.gumbel(size=(n, levels))
        columns[f"category{i}"] = np.array([f"level{k}" for k in range(levels)])[scores.argmax(1)]
    return columns
