"""Describe annotations of cells: which look like batches, labels, or covariates of numbers."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.columns.arrow import labels_of, listed

MOST_LEVELS = 200  # of a batch or a label
_BATCH = re.compile(
    r"batch|donor|sample|site|experiment|chemistry|plate|lane|patient|individual|technolog|"
    r"protocol|study|dataset|replicate|library|kit|assay|subject|mouse",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"cell.?type|cell.?label|louvain|leiden|cluster|label|annotation|ontology|cell.?class|"
    r"subtype|phase|\bclass|\btype",
    re.IGNORECASE,
)
_FLAGS = {"batch": "--batch", "label": "--groupby", "covariate": "--covariate"}
_SHARE = re.compile(r"pct|percent|mito|ribo|\bmt\b|fraction|frac_|score", re.IGNORECASE)


class Annotation(NamedTuple):
    """An annotation of cells.

    Attributes:
        name: of the column of obs.
        kind: "levels", "number" or "name".
        values: its levels or its range, as text.
        looks_like: "batch", "label", "covariate" or "".
        flag: the flag that uses it, or "".
    """

    name: str
    kind: str
    values: str
    looks_like: str = ""
    flag: str = ""

    @property
    def told(self) -> str:
        """The likely role of the column, and the flag of `fit` for it."""
        return f"{self.looks_like}: {self.flag}" if self.flag else self.looks_like


def annotation(name: str, column: pa.ChunkedArray) -> Annotation:
    """Describe one annotation by its name and its values."""
    if pa.types.is_floating(column.type):
        return _number(name, column.drop_null().to_numpy())
    levels = sorted(labels_of(column))
    if len(levels) > MOST_LEVELS and all(level.lstrip("-").isdecimal() for level in levels):
        return _number(name, np.array([float(level) for level in levels]))
    told = f"{len(levels):,}: {listed(levels, 3)}"
    if len(levels) > MOST_LEVELS or len(levels) == len(column):
        return Annotation(name, "name", told)
    looks = "label" if _LABEL.search(name) else "batch" if _BATCH.search(name) else ""
    if len(levels) < 2 or not looks:
        return Annotation(name, "levels", told)
    # Labels with gaps can be learned and given to the other cells.
    flag = "--labels" if looks == "label" and column.null_count else _FLAGS[looks]
    return Annotation(name, "levels", told, looks, f"{flag} {shlex.quote(name)}")


def _number(name: str, values: NDArray[np.float64]) -> Annotation:
    told = f"{np.min(values):.4g} to {np.max(values):.4g}" if len(values) else "none"
    looks = "covariate" if len(values) and _SHARE.search(name) else ""
    flag = f"{_FLAGS[looks]} {shlex.quote(name)}" if looks else ""
    return Annotation(name, "number", told, looks, flag)
