"""Check that the numbers that a model gives are numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lowerbound.errors import ModelFileError


def finite(
    values: NDArray,
    what: str,
    *,
    infinite: bool = False,
    groups: Sequence[Sequence[int]] = (),
) -> NDArray:
    """Return `values` after checking that no value is NaN.

    Args:
        values: numbers from a model, of any shape.
        what: name of them in the message, such as "scores".
        infinite: let infinity pass, as for draws that are then held to a range.
        groups: for values of shape (n, columns), the columns that code one value; one of them may
            be a number while the others are NaN.

    Raises:
        ModelFileError: E142 if a value is not a number: the weights are finite, but too large.
    """
    wrong = np.isnan(values) if infinite else ~np.isfinite(values)
    for columns in groups:
        if len(columns) > 1:
            wrong[:, columns] &= wrong[:, columns].all(1, keepdims=True)
    if wrong.any():
        raise ModelFileError(
            "E142",
            f"the {what} of the model are not finite numbers: {int(wrong.sum()):,} of "
            f"{wrong.size:,}; its weights or scales are out of range",
            fix="take the model from its source again, or fit it anew",
        )
    return values
