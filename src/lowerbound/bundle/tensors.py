"""Reading and writing of the safetensors format, without a copy in memory.

The safetensors package copies every tensor and accepts repeated names. Here a model needs memory
for one copy only, and a damaged file is always refused. The layout is eight bytes of length, a
JSON header, and the numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lowerbound.bundle.documents import invalid, parse_json
from lowerbound.errors import ModelFileError

MAX_HEADER = 16 << 20
MAX_TENSORS = 100_000
ALIGN = 64  # bytes: products of unaligned weights can differ in their last bits

_Dtype = Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"]

# Layout of each type in the file. NumPy has no bfloat16: its 16 bits are the upper half of a
# float32, so it is read and written through that.
_STORED: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _STORED.items() if name != "BF16"}


class TensorLike(Protocol):
    """Protocol of the methods of a torch tensor used here, so that torch is not imported."""

    dtype: Any

    def detach(self) -> Any:
        """Return the same values without their gradient."""
        ...


class Decoded(NamedTuple):
    """Arrays of a file, with the type of each in the file."""

    arrays: dict[str, np.ndarray]
    dtypes: dict[str, str]


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    dtype: _Dtype
    shape: list[Annotated[int, Field(ge=0, le=1 << 40)]] = Field(max_length=16)
    data_offsets: list[Annotated[int, Field(ge=0)]] = Field(min_length=2, max_length=2)


_HEADER = TypeAdapter(dict[str, _Entry])


def encode(weights: Mapping[str, np.ndarray | TensorLike]) -> list[bytes | memoryview]:
    """Return the pieces whose concatenation is a safetensors file.

    Args:
        weights: NumPy arrays or torch tensors by name, of float64, float32, float16, bfloat16,
            an integer type or bool.

    Raises:
        ModelFileError: E119, for a type that the format does not hold.
    """
    stored = {name: _stored(name, value) for name, value in weights.items()}
    # Widest first keeps arrays aligned; then by name, so that equal models have equal bytes.
    order = sorted(stored, key=lambda name: (-stored[name][1].itemsize, name))
    header: dict[str, object] = {}
    pieces: list[bytes | memoryview] = []
    end = 0
    for name in order:
        dtype, array = stored[name]
        start, end = end, end + array.nbytes
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, end]}
        pieces.append(array.reshape(-1).view(np.uint8).data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *pieces]


def room(size: int) -> np.ndarray:
    """Return memory for a safetensors file of `size` bytes, in which its tensors can be aligned.

    A tensor takes at least 48 bytes of the header. Memory that is not written costs nothing.
    """
    return np.empty(size + ALIGN * (1 + min(MAX_TENSORS, size // 48)), np.uint8)


def decode(buffer: np.ndarray, where: str, size: int | None = None) -> Decoded:
    """Return views of `buffer`, the bytes of a whole safetensors file.

    bfloat16 arrays are returned as float32, which represents their values exactly.

    Args:
        buffer: all bytes, uint8; writable, since the arrays share its memory.
        where: the file's name, for the message.
        size: number of bytes of the file, if `buffer` is memory from `room`: the tensors are
            then moved in it, so that each begins at a multiple of 64 bytes.

    Raises:
        ModelFileError: E116 if the layout is invalid in any way.
    """
    header, data = _split(buffer[:size], where)
    placed = _placed(header, data, where)
    if size is not None:
        data, placed = _aligned(buffer, size - data.size, placed)
    arrays = {
        name: _array(data[start:stop], header[name], where)
        for name, (start, stop) in placed.items()
    }
    return Decoded(arrays, {name: entry.dtype for name, entry in header.items()})


def not_finite(arrays: Mapping[str, np.ndarray]) -> str | None:
    """Return the name of the first array with NaN or infinity, or None."""
    for name, array in arrays.items():
        # The extremes of an array with NaN are NaN; a mask would need a quarter of its memory.
        ends = [array.min(), array.max()] if array.dtype.kind == "f" and array.size else []
        if not np.isfinite(ends).all():
            return name
    return None


def _placed(
    header: Mapping[str, _Entry], data: np.ndarray, where: str
) -> dict[str, tuple[int, int]]:
    """Return the first byte of every tensor and the one after its last; check that all fit."""
    placed: dict[str, tuple[int, int]] = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1].data_offsets):
        start, stop = entry.data_offsets
        size = math.prod(entry.shape) * _STORED[entry.dtype].itemsize
        if start != end or stop - start != size or stop > data.size:
            raise invalid(where, f"places tensor {name[:60]!r} wrongly (bytes {start} to {stop})")
        end = stop
        placed[name] = start, stop
    if end != data.size:
        raise invalid(where, f"has {data.size - end} bytes that belong to no tensor")
    return placed


def _aligned(
    buffer: np.ndarray, first: int, placed: Mapping[str, tuple[int, int]]
) -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    """Move tensors towards the end of `buffer`, the last one first, to aligned places.

    Args:
        buffer: memory from `room`.
        first: position of the data in it.
        placed: first and last position of every tensor in the data, in ascending order.

    Returns:
        The data, and the new positions.
    """
    data = buffer[first:]
    base, end = data.ctypes.data, 0
    moved: dict[str, tuple[int, int]] = {}
    for name, (start, stop) in placed.items():
        begin = max(start, end)
        begin += -(base + begin) % ALIGN
        end = begin + stop - start
        moved[name] = begin, end
    view = data.data
    for name, (start, stop) in reversed(list(placed.items())):
        view[slice(*moved[name])] = view[start:stop]  # overlapping parts are moved correctly
    return data, moved


def _split(buffer: np.ndarray, where: str) -> tuple[dict[str, _Entry], np.ndarray]:
    length = int.from_bytes(buffer[:8].tobytes(), "little")
    if buffer.size < 8 or not 2 <= length <= min(MAX_HEADER, buffer.size - 8):
        raise invalid(where, f"is no safetensors file (header of {length} bytes)")
    text = parse_json(buffer[8 : 8 + length].tobytes(), where)
    if not isinstance(text, dict) or len(text) > MAX_TENSORS:
        raise invalid(where, f"must list at most {MAX_TENSORS:,} named tensors")
    try:
        header = _HEADER.validate_python(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))[:100]
        raise invalid(where, f"has a wrong header at {place!r}: {first['msg']}") from error
    return header, buffer[8 + length :]


def _array(raw: np.ndarray, entry: _Entry, where: str) -> np.ndarray:
    array = raw.view(_STORED[entry.dtype])
    if entry.dtype == "BOOL" and raw.size and raw.max() > 1:
        raise invalid(where, "has a truth value that is neither 0 nor 1")
    if entry.dtype == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    try:
        return np.require(array.reshape(entry.shape), requirements=["ALIGNED"])
    except ValueError as error:  # an empty array whose other sides overflow
        raise invalid(where, f"has an impossible shape {entry.shape}") from error


def _stored(name: str, value: np.ndarray | TensorLike) -> tuple[str, np.ndarray]:
    if str(value.dtype) == "torch.bfloat16":
        wide = value.detach().float().cpu().numpy()  # type: ignore[union-attr]
        bits = np.asarray(wide, dtype="<f4", order="C").view("<u4") >> 16
        return "BF16", bits.astype("<u2")
    array = value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
    little = array.dtype.newbyteorder("<")
    if little not in _NAMES:
        raise ModelFileError(
            "E119", f"weight {name!r} has type {array.dtype}, which the format does not hold"
        )
    return _NAMES[little], np.asarray(array, dtype=little, order="C")
