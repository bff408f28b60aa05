"""Comparison of the scores of an exported graph with those of its model."""

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
from lowerbound.tasks.trained import Model

DRAWN = 1000  # rows drawn from the model if no rows are given
MOST = 10_000  # largest number of given rows that are compared
GAPS = 0.05  # share of the values of drawn rows that are made missing
ABSOLUTE, RELATIVE = 1e-3, 1e-5  # tolerances for float32: nats, and relative to the score
TILE = 256  # rows that torch computes together


class Parity(NamedTuple):
    """Differences of the scores of a graph and its model, nats.

    Attributes:
        rows: number of rows compared.
        given: True if the user gave the rows, False if they were drawn from the model.
        largest: largest difference from the same estimator in torch with the same draws of z.
        holds: whether every difference is at most 1e-3 nats or 1e-5 of the score, and `coding`
            at most 1e-5.
        coding: largest relative difference of a coded value.
        typical: median absolute difference from `Model.score`, which uses other draws: the
            Monte Carlo noise.
        shift: median difference from `Model.score`.
        flags: number of rows that `Model.score` flags.
        flips: number of rows that only one of the two flags.
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
        """Return the attributes as plain JSON values."""
        return self._asdict()


def drawn_rows(trained: Model, seed: int) -> Whole:
    """Return rows drawn from the model, with some values made missing."""
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
    """Return an ONNX Runtime session on one CPU thread.

    Args:
        content: the bytes of an ONNX file.
    """
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def compare(trained: Model, scorer: Scorer, content: bytes, frame: Whole, given: bool) -> Parity:
    """Compare the scores of the graph, of the same module in torch, and of `Model.score`.

    Args:
        trained: the model.
        scorer: the module that was exported.
        content: the bytes of the ONNX file.
        frame: the rows.
        given: whether the user gave the rows.
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
        apart = np.where(score == same, 0.0, np.abs(score - same))  # 0 for equal infinities
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
    """Return the largest |one - other| / (1 + |other|); infinity if the NaNs differ."""
    if not np.array_equal(np.isnan(one), np.isnan(other)):
        return float("inf")
    size = 1.0 + np.abs(np.nan_to_num(other))
    return float((np.abs(np.nan_to_num(one) - np.nan_to_num(other)) / size).max(initial=0.0))
