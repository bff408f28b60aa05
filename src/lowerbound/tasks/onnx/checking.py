"""Does the graph compute what the model does? Asked of the bytes that are to be written."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from lowerbound import noise
from lowerbound.coding.tables import TableCoding
from lowerbound.files.data import Whole
from lowerbound.files.read import read
from lowerbound.tasks.onnx.inputs import matrix
from lowerbound.tasks.onnx.scorer import Scorer
from lowerbound.tasks.trained import Trained

DRAWN = 1000  # rows drawn from the model where no others are given
MOST = 10_000  # rows compared of those that are given
GAPS = 0.05  # share of the cells of drawn rows that are left out
ABSOLUTE, RELATIVE = 1e-3, 1e-5  # nats, and of the score: what float32 may lose
TILE = 256  # rows that torch computes together


class Parity(NamedTuple):
    """How the graph's scores compare on rows, nats.

    Attributes:
        rows: how many.
        given: whether the rows were given; else the model drew them.
        largest: the largest difference to the same estimator in torch, the same draws of z.
        holds: whether every difference is at most 1e-3 nats or 1e-5 of the score.
        coding: the largest difference of a coded cell.
        typical: median distance to `Trained.score`, which takes other draws: Monte-Carlo noise.
        shift: median difference to `Trained.score`.
        flags: rows that `Trained.score` flags.
        flips: rows that one of the two flags and the other does not.
    """

    rows: int
    given: bool
    largest: float
    holds: bool
    coding: float
    typical: float
    shift: float
    flags: int
    flips: int

    def facts(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return self._asdict()


def drawn_rows(trained: Trained, seed: int) -> Whole:
    """Return rows drawn from the model, with gaps."""
    table = trained.samples(DRAWN, seed=seed).table
    gone = np.random.default_rng(noise.derive("export", "gaps", seed)).random(
        (table.num_rows, table.num_columns)
    )
    columns = [
        pa.array(column.to_pylist(), column.type, mask=gone[:, i] < GAPS)
        for i, column in enumerate(table.columns)
    ]
    return read(pa.table(columns, names=table.column_names))


def session(content: bytes) -> Any:
    """Return an ONNX Runtime session of a model, on one thread of the CPU."""
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def compare(trained: Trained, scorer: Scorer, content: bytes, frame: Whole, given: bool) -> Parity:
    """Score rows by the graph, by the same module in torch, and by `Trained.score`.

    Args:
        trained: the model.
        scorer: what the graph was made of.
        content: the graph, as it is to be written.
        frame: the rows.
        given: whether the user gave them.
    """
    assert isinstance(trained.coding, TableCoding)
    rows = frame.to_table().first(MOST)
    cells = matrix(trained.coding.schema, rows.table)
    coded = trained.coding.encode(rows)
    runs = session(content)
    score, _, flagged = runs.run(None, {runs.get_inputs()[0].name: cells})
    tiles = torch.from_numpy(cells).split(TILE)
    same = torch.cat([scorer(tile)[0] for tile in tiles]).numpy()
    mine = torch.cat([scorer.coder(tile)[0] for tile in tiles])
    usual = trained.score_coded(coded)
    coding = _apart(mine.numpy(), coded.rows.take(torch.arange(len(coded.rows))).x.numpy())
    with np.errstate(invalid="ignore"):
        apart = np.where(score == same, 0.0, np.abs(score - same))  # infinities are no difference
    allowed = np.maximum(ABSOLUTE, RELATIVE * np.abs(same))
    flags = usual > trained.alarm.threshold
    return Parity(
        rows=len(score),
        given=given,
        largest=float(apart.max()),
        holds=bool((apart <= allowed).all()) and coding <= RELATIVE,
        coding=coding,
        typical=float(np.median(np.abs(score - usual))),
        shift=float(np.median(score - usual)),
        flags=int(flags.sum()),
        flips=int((flags != flagged).sum()),
    )


def _apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the largest difference of two coded cells, of the larger ones' size; NaN is NaN."""
    if not np.array_equal(np.isnan(one), np.isnan(other)):
        return float("inf")
    size = 1.0 + np.abs(np.nan_to_num(other))
    return float((np.abs(np.nan_to_num(one) - np.nan_to_num(other)) / size).max(initial=0.0))
