"""ONNX translations of torch operators whose default translation is inexact or slow.

They are general functions such as log(1 + e^x). This module needs the extra ``export``, so it is
imported only during an export.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

# Any, because the types that onnxscript declares for its operators include None.
op: Any = importlib.import_module("onnxscript").opset18

_FLOAT, _DOUBLE = 1, 11  # of ONNX's TensorProto
_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
_RAISED = 7  # lgamma is taken at x + 7, where four terms of Stirling's series give 11 digits
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680)
_FEW = 32  # size up to which logsumexp is one ONNX operation
_USUAL_THRESHOLD = 20.0  # of torch's softplus


def _axes(*axes: int) -> Any:
    return op.Constant(value_ints=list(axes))


def _number(value: float, like: Any) -> Any:
    """Return a constant with the type of `like`, in full float64 precision if it is float64."""
    tensor = importlib.import_module("onnx.helper").make_tensor("value", _DOUBLE, [], [value])
    return op.CastLike(op.Constant(value=tensor), like)


def softplus(x: Any, beta: float = 1.0, threshold: float = _USUAL_THRESHOLD) -> Any:
    """Return log(1 + e^x).

    ONNX Runtime's own kernel is not vectorised; this takes half as long. The absolute error is
    that of float32. A threshold above the default selects a slower variant that has a small
    relative error for small results as well.
    """
    assert beta == 1.0, "no part of a model uses another beta"
    if threshold > _USUAL_THRESHOLD:
        return op.Add(op.Max(x, _number(0.0, x)), log1p(op.Exp(op.Neg(op.Abs(x)))))
    # Below 50 the logarithm is the larger of the two; above, it is constant and x is larger.
    held = op.Exp(op.Min(x, _number(50.0, x)))
    return op.Max(x, op.Log(op.Add(held, _number(1.0, x))))


def log_sigmoid(x: Any) -> Any:
    """Return log(1 / (1 + e^-x)); the default translation gives log 0 for x below -104."""
    return op.Neg(softplus(op.Neg(x)))


def logaddexp(a: Any, b: Any) -> Any:
    """Return log(e^a + e^b); the default translation overflows above 89."""
    smaller = op.Exp(op.Neg(op.Abs(op.Sub(a, b))))
    return op.Add(op.Max(a, b), op.Log(op.Add(smaller, _number(1.0, a))))


def logsumexp(x: Any, dim: Sequence[int], keepdim: bool = False) -> Any:
    """Return log(sum e^x).

    For many numbers, the maximum is subtracted and the exponentials, at most 1, are computed in
    float32. ONNX Runtime's own kernel, which is not vectorised, is faster only for few numbers.
    """
    axes = _axes(*dim)
    if all(isinstance(x.shape[axis], int) and x.shape[axis] <= _FEW for axis in dim):
        return op.ReduceLogSumExp(x, axes, keepdims=int(keepdim))
    most = op.ReduceMax(x, axes, keepdims=1)
    each = op.Exp(op.Cast(op.Sub(x, most), to=_FLOAT))
    total = op.Add(op.CastLike(op.Log(op.ReduceSum(each, axes, keepdims=1)), x), most)
    return total if keepdim else op.Squeeze(total, axes)


def hypot(a: Any, b: Any) -> Any:
    """Return sqrt(a^2 + b^2) of scales, whose squares do not overflow in float32."""
    return op.Sqrt(op.Add(op.Mul(a, a), op.Mul(b, b)))


def nan_to_num(
    x: Any, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Any:
    """Replace NaN by `nan`; infinities need no replacement, since coded values are finite."""
    return op.Where(op.IsNaN(x), _number(nan or 0.0, x), x)


def repeat_interleave(
    x: Any, repeats: int, dim: int | None = None, output_size: int | None = None
) -> Any:
    """Repeat every row of x, (rows, columns), without operations on shapes in the graph."""
    assert dim == 0, "a graph repeats rows only"
    assert len(x.shape) == 2, "a graph repeats the rows of tables only"
    copies = op.Tile(op.Unsqueeze(x, _axes(1)), _axes(1, repeats, 1))
    return op.Reshape(copies, _axes(-1, int(x.shape[1])))


def lgamma(x: Any) -> Any:
    """Return log Gamma(x), x > 0, which ONNX lacks; used for counts and Student's t."""
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
    """Return log(1 + x), accurate for small x, as x log(1 + x) / ((1 + x) - 1) (Kahan)."""
    one = _number(1.0, x)
    more = op.Add(x, one)
    rest = op.Sub(more, one)
    small = op.Equal(rest, _number(0.0, x))
    return op.Where(small, x, op.Mul(op.Log(more), op.Div(x, op.Where(small, one, rest))))


def table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the translation of each torch operator."""
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
