"""How a few of torch's operators are written in ONNX, where the usual way is inexact or slow.

The model's mathematics is not here: these are log(1 + e^x) and the like. Imported only for an
export, since it needs the extra of that name.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

# Its functions are made for graphs' values, which type checkers cannot tell from None.
op: Any = importlib.import_module("onnxscript").opset18

_FLOAT, _DOUBLE = 1, 11  # of ONNX's TensorProto
_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
_RAISED = 7  # lgamma is taken at x + 7, where four terms of Stirling's series give 11 digits
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680)
_FEW = 32  # numbers of which the sum of exponentials is taken by one operation
_USUAL_THRESHOLD = 20.0  # of torch's softplus


def _axes(*axes: int) -> Any:
    return op.Constant(value_ints=list(axes))


def _number(value: float, like: Any) -> Any:
    """Return a constant of the type of `like`, every digit of float64 if it has them."""
    tensor = importlib.import_module("onnx.helper").make_tensor("value", _DOUBLE, [], [value])
    return op.CastLike(op.Constant(value=tensor), like)


def softplus(x: Any, beta: float = 1.0, threshold: float = _USUAL_THRESHOLD) -> Any:
    """Return log(1 + e^x).

    ONNX Runtime's own kernel works on one number at a time; this takes half as long. It has an
    absolute error of float32; a caller that raises the threshold wants the last digit of small
    results too, and pays for it.
    """
    assert beta == 1.0, "no part of a model uses another beta"
    if threshold > _USUAL_THRESHOLD:
        return op.Add(op.Max(x, _number(0.0, x)), log1p(op.Exp(op.Neg(op.Abs(x)))))
    # Above 50 the logarithm stops growing and x is larger; below, the logarithm is.
    held = op.Exp(op.Min(x, _number(50.0, x)))
    return op.Max(x, op.Log(op.Add(held, _number(1.0, x))))


def log_sigmoid(x: Any) -> Any:
    """Return log(1 / (1 + e^-x)): the usual translation is the logarithm of 0 from -104 on."""
    return op.Neg(softplus(op.Neg(x)))


def logaddexp(a: Any, b: Any) -> Any:
    """Return log(e^a + e^b): the usual translation overflows from 89 on."""
    smaller = op.Exp(op.Neg(op.Abs(op.Sub(a, b))))
    return op.Add(op.Max(a, b), op.Log(op.Add(smaller, _number(1.0, a))))


def logsumexp(x: Any, dim: Sequence[int], keepdim: bool = False) -> Any:
    """Return log(sum e^x).

    Of many numbers: about the maximum, with the exponentials, at most 1, in float32. ONNX
    Runtime's own kernel takes float64 and one number at a time, which pays for few.
    """
    axes = _axes(*dim)
    if all(isinstance(x.shape[axis], int) and x.shape[axis] <= _FEW for axis in dim):
        return op.ReduceLogSumExp(x, axes, keepdims=int(keepdim))
    most = op.ReduceMax(x, axes, keepdims=1)
    each = op.Exp(op.Cast(op.Sub(x, most), to=_FLOAT))
    total = op.Add(op.CastLike(op.Log(op.ReduceSum(each, axes, keepdims=1)), x), most)
    return total if keepdim else op.Squeeze(total, axes)


def hypot(a: Any, b: Any) -> Any:
    """Return sqrt(a^2 + b^2), of scales, whose squares are float32 numbers."""
    return op.Sqrt(op.Add(op.Mul(a, a), op.Mul(b, b)))


def nan_to_num(
    x: Any, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Any:
    """Return `nan` for NaN. Coded cells are never infinite."""
    return op.Where(op.IsNaN(x), _number(nan or 0.0, x), x)


def repeat_interleave(
    x: Any, repeats: int, dim: int | None = None, output_size: int | None = None
) -> Any:
    """Return every row `repeats` times, without computing shapes; x: (rows, columns)."""
    assert dim == 0, "a graph repeats rows only"
    assert len(x.shape) == 2, "a graph repeats the rows of tables only"
    copies = op.Tile(op.Unsqueeze(x, _axes(1)), _axes(1, repeats, 1))
    return op.Reshape(copies, _axes(-1, int(x.shape[1])))


def lgamma(x: Any) -> Any:
    """Return log Gamma(x), x > 0, of counts and of Student's t: ONNX has none."""
    raised = op.Add(x, _number(_RAISED, x))
    product = x
    for i in range(1, _RAISED):
        product = op.Mul(product, op.Add(x, _number(i, x)))
    square, power, series = op.Mul(raised, raised), raised, None
    for coefficient in _STIRLING:
        term = op.Div(_number(coefficient, x), power)
        series = term if series is None else op.Add(series, term)
        power = op.Mul(power, square)
    main = op.Mul(op.Sub(raised, _number(0.5, x)), op.Log(raised))
    whole = op.Add(op.Sub(main, raised), op.Add(series, _number(_HALF_LOG_TWO_PI, x)))
    return op.Sub(whole, op.Log(product))


def log1p(x: Any) -> Any:
    """Return log(1 + x) with all digits of a small x: x log(1 + x) / ((1 + x) - 1), by Kahan."""
    one = _number(1.0, x)
    more = op.Add(x, one)
    rest = op.Sub(more, one)
    small = op.Equal(rest, _number(0.0, x))
    return op.Where(small, x, op.Mul(op.Log(more), op.Div(x, op.Where(small, one, rest))))


def table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the translations by torch's operator."""
    aten = torch.ops.aten
    return {
        aten.softplus.default: softplus,
        aten.log_sigmoid.default: log_sigmoid,
        aten.log_sigmoid_forward.default: log_sigmoid,
        aten.logaddexp.default: logaddexp,
        aten.logsumexp.default: logsumexp,
        aten.hypot.default: hypot,
        torch.ops.prims.hypot.default: hypot,
        aten.nan_to_num.default: nan_to_num,
        aten.repeat_interleave.self_int: repeat_interleave,
        aten.lgamma.default: lgamma,
    }
