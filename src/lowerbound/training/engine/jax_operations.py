"""ATen operations written in JAX, for graphs that `lowerbound.training.engine.graphs` records.

Each function has the arguments of the ATen operation and returns the same numbers. Shapes and
dtypes need no care here: `run` casts every result to the dtype that torch gave it, and refuses one
of another shape. An operation that is not in the table leaves a model to torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import lax

from lowerbound.training.engine.graphs import Graph, Operation, Ref, Unrecordable

Array = Any
Function = Callable[..., Any]

OPERATIONS: dict[str, Function] = {}

DTYPES: dict[torch.dtype, Any] = {
    torch.float32: jnp.float32,
    torch.float64: jnp.float64,
    torch.int64: jnp.int64,
    torch.int32: jnp.int32,
    torch.bool: jnp.bool_,
}


def operation(*names: str) -> Callable[[Function], Function]:
    """Enter a function into the table under the names of ATen operations, without overloads."""

    def entered(function: Function) -> Function:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return entered


def unknown(graph: Graph) -> list[str]:
    """Return the operations and dtypes of a graph that are not in the table, sorted."""
    names = {o.function._opname for o in graph.operations} - OPERATIONS.keys()
    dtypes = {each[1] for o in graph.operations for each in o.like if each} - DTYPES.keys()
    return sorted(names) + sorted(map(str, dtypes))


def run(graph: Graph, values: dict[Ref, Array]) -> dict[Ref, Array]:
    """Run a graph on arrays, inside a function that JAX traces.

    Args:
        graph: the graph.
        values: the given tensors; the results are added to it.

    Raises:
        Unrecordable: for a result whose shape is not that of torch's.
    """
    for each in graph.operations:
        args = _arrays(each.args, values)
        kwargs = {name: _arrays(value, values) for name, value in each.kwargs.items()}
        for name in ("device", "layout", "pin_memory", "non_blocking", "memory_format"):
            kwargs.pop(name, None)
        found = OPERATIONS[each.function._opname](*args, **kwargs)
        _keep(each, found if isinstance(found, list | tuple) else [found], values)
    return values


def _arrays(value: Any, values: dict[Ref, Array]) -> Any:
    if isinstance(value, Ref):
        return values[value]
    if isinstance(value, list | tuple):
        return [_arrays(each, values) for each in value]
    return DTYPES.get(value, value) if isinstance(value, torch.dtype) else value


def _keep(each: Operation, found: Sequence[Any], values: dict[Ref, Array]) -> None:
    for ref, like, array in zip(each.outputs, each.like, found, strict=True):
        if ref is None or like is None:
            continue
        shape, dtype = like
        made = jnp.asarray(array).astype(DTYPES[dtype])
        if made.shape != tuple(shape):
            raise Unrecordable(f"{each.function} has the shape {made.shape}, not {tuple(shape)}")
        values[ref] = made


# Elementwise functions

_UNARY: dict[str, Function] = {
    "abs": jnp.abs,
    "alias": lambda x: x,
    "bitwise_not": jnp.bitwise_not,
    "ceil": jnp.ceil,
    "cos": jnp.cos,
    "cosh": jnp.cosh,
    "detach": lambda x: x,
    "digamma": jax.scipy.special.digamma,
    "erf": lax.erf,
    "erfc": lax.erfc,
    "erfinv": lax.erf_inv,
    "exp": jnp.exp,
    "expm1": jnp.expm1,
    "floor": jnp.floor,
    "isfinite": jnp.isfinite,
    "isinf": jnp.isinf,
    "isnan": jnp.isnan,
    "isneginf": jnp.isneginf,
    "isposinf": jnp.isposinf,
    "lgamma": lax.lgamma,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "log_sigmoid_forward": lambda x: (jax.nn.log_sigmoid(x), jnp.zeros_like(x)),
    "logical_not": jnp.logical_not,
    "neg": jnp.negative,
    "reciprocal": jnp.reciprocal,
    "relu": jax.nn.relu,
    "round": jnp.round,
    "rsqrt": lax.rsqrt,
    "sigmoid": jax.nn.sigmoid,
    "sign": jnp.sign,
    "silu": jax.nn.silu,
    "sin": jnp.sin,
    "sinh": jnp.sinh,
    "special_erfcx": lambda x: jnp.exp(x * x) * lax.erfc(x),
    "special_log_ndtr": jax.scipy.special.log_ndtr,
    "special_ndtr": jax.scipy.special.ndtr,
    "special_ndtri": jax.scipy.special.ndtri,
    "sqrt": jnp.sqrt,
    "square": jnp.square,
    "tan": jnp.tan,
    "tanh": jnp.tanh,
    "trunc": jnp.trunc,
}
_BINARY: dict[str, Function] = {
    "atan2": jnp.arctan2,
    "bitwise_and": jnp.bitwise_and,
    "bitwise_or": jnp.bitwise_or,
    "bitwise_xor": jnp.bitwise_xor,
    "eq": jnp.equal,
    "floor_divide": jnp.floor_divide,
    "fmax": jnp.fmax,
    "fmin": jnp.fmin,
    "ge": jnp.greater_equal,
    "gt": jnp.greater,
    "le": jnp.less_equal,
    "logaddexp": jnp.logaddexp,
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "logical_xor": jnp.logical_xor,
    "lt": jnp.less,
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "mul": jnp.multiply,
    "ne": jnp.not_equal,
    "remainder": jnp.remainder,
    "special_xlog1py": jax.scipy.special.xlog1py,
    "xlogy": jax.scipy.special.xlogy,
}
for _table in (_UNARY, _BINARY):
    for _name, _function in _table.items():
        operation(_name, f"{_name}_")(_function)


@operation("add", "add_")
def _add(x: Array, y: Array, alpha: float = 1) -> Array:
    return x + y if alpha == 1 else x + alpha * y


@operation("sub", "sub_")
def _sub(x: Array, y: Array, alpha: float = 1) -> Array:
    return x - y if alpha == 1 else x - alpha * y


@operation("rsub")
def _rsub(x: Array, y: Array, alpha: float = 1) -> Array:
    return y - x if alpha == 1 else y - alpha * x


@operation("div", "div_")
def _div(x: Array, y: Array, rounding_mode: str | None = None) -> Array:
    quotient = jnp.true_divide(x, y)
    if rounding_mode is None:
        return quotient
    return jnp.floor(quotient) if rounding_mode == "floor" else jnp.trunc(quotient)


@operation("pow", "pow_")
def _pow(x: Array, y: Array) -> Array:
    if isinstance(y, int | float) and y == int(y) and abs(y) <= 8:  # as products, not by logarithm
        return lax.integer_pow(x, int(y))
    return jnp.power(x, y)


@operation("addcmul", "addcmul_")
def _addcmul(x: Array, y: Array, z: Array, value: float = 1) -> Array:
    return x + value * y * z


@operation("addcdiv", "addcdiv_")
def _addcdiv(x: Array, y: Array, z: Array, value: float = 1) -> Array:
    return x + value * y / z


@operation("lerp", "lerp_")
def _lerp(x: Array, y: Array, weight: Array) -> Array:
    return jnp.where(jnp.abs(weight) < 0.5, x + weight * (y - x), y - (y - x) * (1 - weight))


@operation("clamp", "clamp_")
def _clamp(x: Array, low: Array | None = None, high: Array | None = None, **named: Any) -> Array:
    low, high = named.get("min", low), named.get("max", high)
    x = x if low is None else jnp.maximum(x, low)
    return x if high is None else jnp.minimum(x, high)


@operation("clamp_min", "clamp_min_")
def _clamp_min(x: Array, low: Array) -> Array:
    return jnp.maximum(x, low)


@operation("clamp_max", "clamp_max_")
def _clamp_max(x: Array, high: Array) -> Array:
    return jnp.minimum(x, high)


@operation("where")
def _where(condition: Array, x: Array, y: Array) -> Array:
    return jnp.where(condition, x, y)


@operation("masked_fill", "masked_fill_")
def _masked_fill(x: Array, mask: Array, value: Array) -> Array:
    return jnp.where(mask, jnp.asarray(value).astype(x.dtype), x)


@operation("nan_to_num", "nan_to_num_")
def _nan_to_num(
    x: Array, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Array:
    ends = jnp.finfo(x.dtype)
    x = jnp.where(jnp.isnan(x), 0.0 if nan is None else nan, x)
    x = jnp.where(jnp.isposinf(x), ends.max if posinf is None else posinf, x)
    return jnp.where(jnp.isneginf(x), ends.min if neginf is None else neginf, x)


@operation("softplus")
def _softplus(x: Array, beta: float = 1, threshold: float = 20) -> Array:
    return jnp.where(x * beta > threshold, x, jnp.log1p(jnp.exp(x * beta)) / beta)


@operation("softplus_backward")
def _softplus_backward(g: Array, x: Array, beta: float, threshold: float) -> Array:
    return jnp.where(x * beta > threshold, g, g * jax.nn.sigmoid(x * beta))


@operation("elu")
def _elu(x: Array, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Array:
    below = alpha * scale * jnp.expm1(jnp.minimum(x, 0.0) * input_scale)
    return jnp.where(x > 0, x * scale, below)


@operation("elu_backward")
def _elu_backward(  # noqa: PLR0913, PLR0917 - the operation's own arguments
    g: Array, alpha: float, scale: float, input_scale: float, is_result: bool, x: Array
) -> Array:
    result = x + alpha * scale if is_result else alpha * scale * jnp.exp(x * input_scale)
    return jnp.where(x > 0, g * scale, g * input_scale * result)


@operation("leaky_relu")
def _leaky_relu(x: Array, slope: float = 0.01) -> Array:
    return jnp.where(x > 0, x, x * slope)


@operation("leaky_relu_backward")
def _leaky_relu_backward(g: Array, x: Array, slope: float, is_result: bool) -> Array:
    return jnp.where(x > 0, g, g * slope)


@operation("gelu")
def _gelu(x: Array, approximate: str = "none") -> Array:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


@operation("gelu_backward")
def _gelu_backward(g: Array, x: Array, approximate: str = "none") -> Array:
    return jax.vjp(lambda x: _gelu(x, approximate), x)[1](g)[0]


@operation("glu")
def _glu(x: Array, dim: int = -1) -> Array:
    value, gate = jnp.split(x, 2, dim)
    return value * jax.nn.sigmoid(gate)


@operation("glu_backward")
def _glu_backward(g: Array, x: Array, dim: int) -> Array:
    return jax.vjp(lambda x: _glu(x, dim), x)[1](g)[0]


@operation("silu_backward")
def _silu_backward(g: Array, x: Array) -> Array:
    s = jax.nn.sigmoid(x)
    return g * s * (1 + x * (1 - s))


@operation("sigmoid_backward")
def _sigmoid_backward(g: Array, result: Array) -> Array:
    return g * result * (1 - result)


@operation("tanh_backward")
def _tanh_backward(g: Array, result: Array) -> Array:
    return g * (1 - result * result)


@operation("log_sigmoid_backward")
def _log_sigmoid_backward(g: Array, x: Array, buffer: Array) -> Array:
    return g * jax.nn.sigmoid(-x)


@operation("threshold_backward")
def _threshold_backward(g: Array, x: Array, threshold: float) -> Array:
    return jnp.where(x > threshold, g, 0)


@operation("logit")
def _logit(x: Array, eps: float | None = None) -> Array:
    x = x if eps is None else jnp.clip(x, eps, 1 - eps)
    return jnp.log(x / (1 - x))


@operation("logit_backward")
def _logit_backward(g: Array, x: Array, eps: float | None = None) -> Array:
    low, high = (0.0, 1.0) if eps is None else (eps, 1 - eps)
    return jnp.where((x >= low) & (x <= high), g / (x * (1 - x)), 0.0)


@operation("polygamma")
def _polygamma(n: int, x: Array) -> Array:
    return jax.scipy.special.polygamma(n, x)


@operation("binary_cross_entropy_with_logits")
def _binary_cross_entropy(
    x: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    reduction: int = 1,
) -> Array:
    if weight is not None or pos_weight is not None:
        raise Unrecordable("a weighted cross entropy is not in the table")
    each = jnp.maximum(x, 0) - x * target + jnp.log1p(jnp.exp(-jnp.abs(x)))
    return (each, each.mean(), each.sum())[reduction] if reduction else each


# Sums and extremes


def _axes(dim: Any) -> Any:
    """Return JAX's axes of a dimension, a list of them, or none for all."""
    return dim if dim is None or isinstance(dim, int) else tuple(dim) or None


@operation("sum")
def _sum(x: Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Array:
    return jnp.sum(x, _axes(dim), dtype=dtype, keepdims=keepdim)


@operation("mean")
def _mean(x: Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Array:
    return jnp.mean(x, _axes(dim), dtype=dtype, keepdims=keepdim)


@operation("prod")
def _prod(x: Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Array:
    return jnp.prod(x, _axes(dim), dtype=dtype, keepdims=keepdim)


@operation("amax")
def _amax(x: Array, dim: Any = (), keepdim: bool = False) -> Array:
    return jnp.max(x, _axes(dim), keepdims=keepdim)


@operation("amin")
def _amin(x: Array, dim: Any = (), keepdim: bool = False) -> Array:
    return jnp.min(x, _axes(dim), keepdims=keepdim)


@operation("max")
def _max(x: Array, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None:
        return jnp.max(x)
    return jnp.max(x, dim, keepdims=keepdim), jnp.argmax(x, dim, keepdims=keepdim)


@operation("min")
def _min(x: Array, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None:
        return jnp.min(x)
    return jnp.min(x, dim, keepdims=keepdim), jnp.argmin(x, dim, keepdims=keepdim)


@operation("argmax")
def _argmax(x: Array, dim: int | None = None, keepdim: bool = False) -> Array:
    return jnp.argmax(x, dim, keepdims=keepdim)


@operation("any")
def _any(x: Array, dim: Any = None, keepdim: bool = False) -> Array:
    return jnp.any(x, _axes(dim), keepdims=keepdim)


@operation("all")
def _all(x: Array, dim: Any = None, keepdim: bool = False) -> Array:
    return jnp.all(x, _axes(dim), keepdims=keepdim)


@operation("cumsum")
def _cumsum(x: Array, dim: int, dtype: Any = None) -> Array:
    return jnp.cumsum(x, dim, dtype=dtype)


@operation("logsumexp")
def _logsumexp(x: Array, dim: Any, keepdim: bool = False) -> Array:
    return jax.scipy.special.logsumexp(x, _axes(dim), keepdims=keepdim)


@operation("linalg_solve_triangular")
def _solve_triangular(
    a: Array, b: Array, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Array:
    return lax.linalg.triangular_solve(
        a, b, left_side=left, lower=not upper, unit_diagonal=unitriangular
    )


@operation("linalg_vector_norm")
def _vector_norm(x: Array, order: float = 2, dim: Any = None, keepdim: bool = False) -> Array:
    if order != 2:
        raise Unrecordable(f"the norm of order {order} is not in the table")
    return jnp.sqrt(jnp.sum(x * x, _axes(dim), keepdims=keepdim))


@operation("_softmax")
def _softmax(x: Array, dim: int, half: bool) -> Array:
    return jax.nn.softmax(x, dim)


@operation("_log_softmax")
def _log_softmax(x: Array, dim: int, half: bool) -> Array:
    return jax.nn.log_softmax(x, dim)


@operation("_softmax_backward_data")
def _softmax_backward(g: Array, result: Array, dim: int, dtype: Any) -> Array:
    return result * (g - jnp.sum(g * result, dim, keepdims=True))


@operation("_log_softmax_backward_data")
def _log_softmax_backward(g: Array, result: Array, dim: int, dtype: Any) -> Array:
    return g - jnp.exp(result) * jnp.sum(g, dim, keepdims=True)


@operation("native_layer_norm")
def _layer_norm(
    x: Array, shape: Sequence[int], weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    mean = jnp.mean(x, axes, keepdims=True)
    rstd = lax.rsqrt(jnp.mean(jnp.square(x - mean), axes, keepdims=True) + eps)
    y = (x - mean) * rstd
    y = y if weight is None else y * weight
    return y if bias is None else y + bias, mean, rstd


@operation("native_layer_norm_backward")
def _layer_norm_backward(  # noqa: PLR0913, PLR0917 - the operation's own arguments
    g: Array,
    x: Array,
    shape: Sequence[int],
    mean: Array,
    rstd: Array,
    weight: Array | None,
    bias: Array | None,
    mask: Sequence[bool],
) -> tuple[Array, Array, Array]:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    others = tuple(range(x.ndim - len(shape)))
    y = (x - mean) * rstd
    gy = g if weight is None else g * weight
    centred = gy - jnp.mean(gy, axes, keepdims=True)
    gx = (centred - y * jnp.mean(gy * y, axes, keepdims=True)) * rstd
    return gx, jnp.sum(g * y, others), jnp.sum(g, others)


# Products


@operation("mm", "bmm", "matmul")
def _mm(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y)


@operation("addmm", "baddbmm")
def _addmm(bias: Array, x: Array, y: Array, beta: float = 1, alpha: float = 1) -> Array:
    product = jnp.matmul(x, y)
    product = product if alpha == 1 else alpha * product
    return product + (bias if beta == 1 else beta * bias)


@operation("mv", "dot")
def _mv(x: Array, y: Array) -> Array:
    return jnp.dot(x, y)


# Shapes


@operation("view", "reshape", "_unsafe_view")
def _view(x: Array, shape: Sequence[int]) -> Array:
    return jnp.reshape(x, shape)


@operation("t")
def _t(x: Array) -> Array:
    return jnp.transpose(x)


@operation("transpose")
def _transpose(x: Array, a: int, b: int) -> Array:
    return jnp.swapaxes(x, a, b)


@operation("permute")
def _permute(x: Array, dims: Sequence[int]) -> Array:
    return jnp.transpose(x, dims)


@operation("unsqueeze")
def _unsqueeze(x: Array, dim: int) -> Array:
    return jnp.expand_dims(x, dim)


@operation("squeeze")
def _squeeze(x: Array, dim: Any = None) -> Array:
    dims = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    return jnp.squeeze(x, tuple(d for d in dims if x.shape[d] == 1))


@operation("expand")
def _expand(x: Array, shape: Sequence[int], implicit: bool = False) -> Array:
    ahead = len(shape) - x.ndim
    whole = [x.shape[i - ahead] if n == -1 else n for i, n in enumerate(shape)]
    return jnp.broadcast_to(x, whole)


@operation("repeat")
def _repeat(x: Array, times: Sequence[int]) -> Array:
    return jnp.tile(x, times)


@operation("repeat_interleave")
def _repeat_interleave(x: Array, repeats: int, dim: int | None = None, **size: Any) -> Array:
    return jnp.repeat(x, repeats, dim)


@operation("cat")
def _cat(arrays: Sequence[Array], dim: int = 0) -> Array:
    some = [x for x in arrays if x.shape != (0,)] or arrays  # torch ignores empty vectors
    return jnp.concatenate(some, dim)


@operation("stack")
def _stack(arrays: Sequence[Array], dim: int = 0) -> Array:
    return jnp.stack(arrays, dim)


@operation("split", "split_with_sizes")
def _split(x: Array, size: Any, dim: int = 0) -> list[Array]:
    length = x.shape[dim]
    sizes = size if isinstance(size, list) else [size] * (length // size)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return jnp.split(x, [end for end in ends if end < length], dim)


@operation("unbind")
def _unbind(x: Array, dim: int = 0) -> list[Array]:
    return [jnp.take(x, i, dim) for i in range(x.shape[dim])]


@operation("flip")
def _flip(x: Array, dims: Sequence[int]) -> Array:
    return jnp.flip(x, tuple(dims))


@operation("constant_pad_nd")
def _pad(x: Array, pad: Sequence[int], value: float = 0) -> Array:
    pairs = [(pad[i], pad[i + 1], 0) for i in range(0, len(pad), 2)][::-1]
    whole = [(0, 0, 0)] * (x.ndim - len(pairs)) + pairs
    return lax.pad(x, jnp.asarray(value, x.dtype), whole)


# Parts, chosen and written


def _span(x: Array, dim: int, start: int | None, end: int | None, step: int) -> tuple[slice, ...]:
    length = x.shape[dim]
    end = length if end is None else min(end, length)
    where = [slice(None)] * x.ndim
    where[dim] = slice(start, end, step)
    return tuple(where)


@operation("slice")
def _slice(
    x: Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Array:
    return x[_span(x, dim, start, end, step)]


@operation("slice_backward")
def _slice_backward(  # noqa: PLR0913, PLR0917 - the operation's own arguments
    g: Array, shape: Sequence[int], dim: int, start: int, end: int, step: int
) -> Array:
    whole = jnp.zeros(shape, g.dtype)
    return whole.at[_span(whole, dim, start, end, step)].set(g)


@operation("slice_scatter")
def _slice_scatter(  # noqa: PLR0913, PLR0917 - the operation's own arguments
    x: Array,
    source: Array,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Array:
    return x.at[_span(x, dim, start, end, step)].set(source)


@operation("select")
def _select(x: Array, dim: int, index: int) -> Array:
    return jnp.take(x, index % x.shape[dim], dim)


@operation("select_backward")
def _select_backward(g: Array, shape: Sequence[int], dim: int, index: int) -> Array:
    where: list[Any] = [slice(None)] * len(shape)
    where[dim] = index
    return jnp.zeros(shape, g.dtype).at[tuple(where)].set(g)


@operation("index_select")
def _index_select(x: Array, dim: int, index: Array) -> Array:
    return jnp.take(x, index, dim, mode="clip")


@operation("index_add", "index_add_")
def _index_add(x: Array, dim: int, index: Array, source: Array, alpha: float = 1) -> Array:
    where: list[Any] = [slice(None)] * x.ndim
    where[dim] = index
    return x.at[tuple(where)].add(source if alpha == 1 else alpha * source)


@operation("index", "_unsafe_index")
def _index(x: Array, indices: Sequence[Array | None]) -> Array:
    return x[_places(x, indices)]


@operation("index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")
def _index_put(
    x: Array, indices: Sequence[Array | None], values: Array, accumulate: bool = False, *_: Any
) -> Array:
    at = x.at[_places(x, indices)]
    return at.add(values) if accumulate else at.set(values)


def _places(x: Array, indices: Sequence[Array | None]) -> tuple[Any, ...]:
    """Return the index that means the same in JAX."""
    if any(index is not None and index.dtype == jnp.bool_ for index in indices):
        raise Unrecordable("it picks elements by a mask, whose number depends on values")
    whole = [*indices, *[None] * (x.ndim - len(indices))]
    return tuple(slice(None) if index is None else index for index in whole)


@operation("gather")
def _gather(x: Array, dim: int, index: Array, sparse_grad: bool = False) -> Array:
    return jnp.take_along_axis(_trimmed(x, index, dim), index, dim, mode="clip")


def _trimmed(x: Array, index: Array, dim: int) -> Array:
    """Return the part of `x` along the other axes that the index covers."""
    dim %= x.ndim
    sizes = [x.shape[i] if i == dim else index.shape[i] for i in range(x.ndim)]
    return x if x.shape == tuple(sizes) else x[tuple(slice(n) for n in sizes)]


@operation("scatter_add", "scatter_add_")
def _scatter_add(x: Array, dim: int, index: Array, source: Array) -> Array:
    places = _along(x, dim, index)
    return x.at[places].add(source[tuple(slice(n) for n in index.shape)])


@operation("scatter", "scatter_")
def _scatter(
    x: Array, dim: int, index: Array, source: Any = None, *, value: Any = None, **named: Any
) -> Array:
    source = named.get("src", value if source is None else source)
    if hasattr(source, "shape") and source.shape != ():
        source = source[tuple(slice(n) for n in index.shape)]
    return x.at[_along(x, dim, index)].set(source)


def _along(x: Array, dim: int, index: Array) -> tuple[Array, ...]:
    """Return the index arrays of all axes for one that is along `dim`."""
    axes = [
        lax.broadcasted_iota(index.dtype, index.shape, i) if i != dim % x.ndim else index
        for i in range(x.ndim)
    ]
    return tuple(axes)


@operation("embedding")
def _embedding(weight: Array, index: Array, *_: Any) -> Array:
    return jnp.take(weight, index, 0, mode="clip")


@operation("embedding_dense_backward")
def _embedding_backward(g: Array, index: Array, count: int, padding: int, scaled: bool) -> Array:
    if padding >= 0 or scaled:
        raise Unrecordable("an embedding with padding is not in the table")
    flat = g.reshape(-1, g.shape[-1])
    return jnp.zeros((count, g.shape[-1]), g.dtype).at[index.reshape(-1)].add(flat)


@operation("searchsorted")
def _searchsorted(
    edges: Array,
    x: Array,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Array | None = None,
) -> Array:
    if sorter is not None:
        raise Unrecordable("searchsorted with a sorter is not in the table")
    find = partial(jnp.searchsorted, side="right" if right or side == "right" else "left")
    for _ in range(edges.ndim - 1):
        find = jax.vmap(find)
    return find(edges, x)


@operation("bucketize")
def _bucketize(x: Array, edges: Array, out_int32: bool = False, right: bool = False) -> Array:
    return jnp.searchsorted(edges, x, "right" if right else "left")


@operation("sort")
def _sort(x: Array, dim: int = -1, descending: bool = False, **stable: Any) -> tuple[Array, Array]:
    order = jnp.argsort(x, dim, stable=True, descending=descending)
    return jnp.take_along_axis(x, order, dim), order


@operation("argsort")
def _argsort(x: Array, *args: Any, **kwargs: Any) -> Array:
    dim = kwargs.get("dim", next((a for a in args if not isinstance(a, bool)), -1))
    return jnp.argsort(x, dim, stable=True, descending=kwargs.get("descending", False))


@operation("tril")
def _tril(x: Array, diagonal: int = 0) -> Array:
    return jnp.tril(x, diagonal)


@operation("triu")
def _triu(x: Array, diagonal: int = 0) -> Array:
    return jnp.triu(x, diagonal)


# New tensors and copies


@operation("_to_copy", "clone", "contiguous", "lift_fresh_copy", "lift_fresh", "to")
def _copy(x: Array, **kwargs: Any) -> Array:
    return x  # `run` casts


@operation("copy", "copy_")
def _copy_into(x: Array, source: Array, *_: Any) -> Array:
    return jnp.broadcast_to(source, x.shape)


@operation("zeros_like", "empty_like")
def _zeros_like(x: Array, **kwargs: Any) -> Array:
    return jnp.zeros(x.shape)


@operation("ones_like")
def _ones_like(x: Array, **kwargs: Any) -> Array:
    return jnp.ones(x.shape)


@operation("full_like")
def _full_like(x: Array, value: Any, **kwargs: Any) -> Array:
    return jnp.full(x.shape, value)


@operation("zeros", "new_zeros", "empty", "new_empty")
def _zeros(*args: Any, **kwargs: Any) -> Array:
    return jnp.zeros(args[-1])


@operation("ones", "new_ones")
def _ones(*args: Any, **kwargs: Any) -> Array:
    return jnp.ones(args[-1])


@operation("full", "new_full")
def _full(*args: Any, **kwargs: Any) -> Array:
    return jnp.full(*args[-2:])


@operation("scalar_tensor")
def _scalar(value: Any, **kwargs: Any) -> Array:
    return jnp.asarray(value)


@operation("fill", "fill_")
def _fill(x: Array, value: Any) -> Array:
    return jnp.full(x.shape, value)


@operation("zero_")
def _zero(x: Array) -> Array:
    return jnp.zeros(x.shape)


@operation("arange")
def _arange(*ends: Any, **kwargs: Any) -> Array:
    return jnp.arange(*ends, dtype=kwargs.get("dtype"))


@operation("eye")
def _eye(n: int, m: int | None = None, **kwargs: Any) -> Array:
    return jnp.eye(n, m)


@operation("linspace")
def _linspace(start: float, end: float, steps: int, **kwargs: Any) -> Array:
    return jnp.linspace(start, end, steps)
