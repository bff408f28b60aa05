"""Read torch datasets and data loaders into memory, without importing torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.errors import DataError, UsageError
from lowerbound.files.arrays import NumpyNative, from_array
from lowerbound.files.data import ImagePairs, Whole

_FIRST = 4  # channels at most: a first dimension of an image that is not larger is its channels


def is_torch_dataset(data: object) -> bool:
    """Return whether data are a torch ``Dataset`` or ``DataLoader``."""
    torch = sys.modules.get("torch.utils.data")
    return torch is not None and isinstance(data, torch.Dataset | torch.DataLoader)


def from_torch(data: Any) -> Whole:
    """Read all examples of a torch ``Dataset`` or ``DataLoader``, in the order that it gives.

    An example is a tensor x or a tuple (x, context). A number or a string as context, such as
    the class of an image, becomes the label of the row. An image as context is what a model is
    given to make the image x, for recipes that restore images.

    Args:
        data: examples x of shape (columns,), (H, W), (C, H, W) or (H, W, C).

    Raises:
        DataError: E013 without examples, E029 where the examples differ in shape, E040 for values
            that NumPy cannot represent, and as `from_array`.
        UsageError: E201 for examples of another structure.
    """
    origin = f"the {type(data).__name__}"
    xs: list[NDArray[Any]] = []
    contexts: list[NDArray[Any]] = []
    for x, context in _examples(data, origin):
        xs.append(x)
        contexts += [] if context is None else [context]
    if not xs:
        raise DataError("E013", f"{origin} has no examples", fix="look at its filter and sampler")
    if contexts and len(contexts) < len(xs):
        raise _structure(origin, "a context in some examples and not in others")
    if contexts and contexts[0].ndim:
        return _pairs(xs, contexts, origin)
    try:
        stacked = np.stack(xs)
    except ValueError as error:
        raise DataError(
            "E029",
            f"the examples of {origin} differ in shape: {str(error)[:120]}",
            fix="give all examples the same shape, for instance with a transform that resizes",
        ) from error
    rows = from_array(stacked, origin=origin)
    return replace(rows, labels=tuple(str(context) for context in contexts))


def _examples(data: Any, origin: str) -> Iterator[tuple[NDArray[Any], NDArray[Any] | None]]:
    """Yield the examples one by one, also those of batches."""
    for item in _items(data):
        x, *rest = item if isinstance(item, tuple | list) else (item,)
        if len(rest) > 1 or isinstance(x, dict | tuple | list | str):
            kind = f"{len(rest) + 1} values" if rest[1:] else f"a {type(x).__name__}"
            raise _structure(origin, kind)
        parts = [_array(each, origin) for each in (x, *rest)]
        if not _is_batched(data):
            yield parts[0], parts[1] if rest else None
            continue
        yield from zip(parts[0], parts[1] if rest else [None] * len(parts[0]), strict=True)


def _items(data: Any) -> Iterator[Any]:
    """Yield what the data return; a dataset that is indexed need not know where it ends."""
    if hasattr(data, "__iter__"):
        return iter(data)
    return (data[i] for i in range(len(data)))


def _is_batched(data: Any) -> bool:
    """Return whether an item is a batch; a loader made with ``batch_size=None`` has none."""
    return getattr(data, "batch_sampler", None) is not None


def _array(value: Any, origin: str) -> NDArray[Any]:
    """Return a tensor, an image or a number as an array."""
    plain = value.detach().cpu() if hasattr(value, "detach") else value
    try:
        return np.asarray(plain)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            "E040",
            f"{origin} holds values that NumPy cannot represent: {str(error)[:120]}",
            fix="convert them first, for instance with tensor.float()",
        ) from error


def _pairs(
    wanted: Sequence[NDArray[Any]], given: Sequence[NDArray[Any]], origin: str
) -> ImagePairs:
    """Return examples (target, image) for a recipe that restores images."""
    shapes = {(x.ndim, context.ndim) for x, context in zip(wanted, given, strict=True)}
    if not all(2 <= n <= 3 for pair in shapes for n in pair):
        found = f"an x of shape {wanted[0].shape} with a context of shape {given[0].shape}"
        raise _structure(origin, found)
    return ImagePairs(
        [_last(image) for image in given],
        [_last(image) for image in wanted],
        native=NumpyNative(),
        origin=origin,
        total=len(wanted),
        files=tuple(str(i) for i in range(len(wanted))),
    )


def _last(image: NDArray[Any]) -> NDArray[Any]:
    """Return an image with its channels last, (H, W, C)."""
    if image.ndim == 2:
        return image[..., None]
    return np.moveaxis(image, 0, -1) if image.shape[0] <= _FIRST else image


def _structure(origin: str, found: str) -> UsageError:
    return UsageError(
        "E201",
        f"{origin} gives examples that cannot be read: {found}",
        fix="give tensors, or tuples (tensor, label) or (target image, image)",
    )
