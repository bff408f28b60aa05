"""Check that the numbers that a model gives are numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lowerbound.errors import ModelFileError
from lowerbound.nn.model import evaluating

# Messages of torch's random functions for parameters that are NaN, negative or infinite.
_REFUSED = re.compile(
    r"normal expects .*std|probability tensor contains|invalid multinomial distribution"
    r"|invalid Poisson rate|Expected p_in >= 0"
)


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
        raise _not_finite(f"{what} of the model", f": {int(wrong.sum()):,} of {wrong.size:,}")
    return values


@contextmanager
def using(model: nn.Module) -> Iterator[torch.device]:
    """Put a model in evaluation mode inside the block, as `evaluating`, for draws from it.

    Raises:
        ModelFileError: E142 if torch cannot draw from a distribution of the model because its
            parameters are not numbers, where `finite` would see no result.
    """
    with evaluating(model) as device:
        try:
            yield device
        except RuntimeError as error:
            if not _REFUSED.search(str(error)):
                raise
            raise _not_finite("parameters of a distribution of the model", "") from error


def _not_finite(what: str, count: str) -> ModelFileError:
    return ModelFileError(
        "E142",
        f"the {what} are not finite numbers{count}; its weights or scales are out of range",
        fix="take the model from its source again, or fit it anew",
    )
