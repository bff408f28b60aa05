"""Record the loss and the gradient of an objective as one graph of ATen operations.

The objective runs once, on a real batch, while every operation that it and autograd perform is
noted. The graph can then be run by something faster than torch, with other weights, batches and
noise (`lowerbound.training.engine.compiled`). torch's own tracers do the same and more, but import
its compiler, which takes longer than many fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from lowerbound.coding.rows import Batch
from lowerbound.nn.networks.mlp import lent
from lowerbound.nn.recording import recording
from lowerbound.noise import Noise, Stream, generator


class Unrecordable(Exception):
    """A graph of this objective cannot be recorded; the message is the reason, for the user."""


class Ref(NamedTuple):
    """A tensor of a graph, in place of the tensor itself."""

    index: int


class Operation(NamedTuple):
    """One operation of a graph.

    Attributes:
        function: the overload of the ATen operation.
        args: its arguments, each tensor replaced by a `Ref`.
        kwargs: likewise.
        outputs: the tensors that it makes, in order; None for one that is not a tensor.
        like: their shapes and dtypes.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Ref | None, ...]
    like: tuple[tuple[Size, torch.dtype] | None, ...]


class Draw(NamedTuple):
    """Random numbers that are drawn in every step.

    Attributes:
        ref: what stands for them.
        shape: their shape.
        dtype: their dtype.
        layer: for those that a layer draws, the call of torch, without its generator.
    """

    ref: Ref
    shape: Size
    dtype: torch.dtype
    layer: Callable[..., Tensor] | None = None

    def drawn(self, noise: Noise, layers: torch.Generator) -> Tensor:
        """Return the numbers of a step: normals, or those of a layer, from its generator."""
        if self.layer is not None:
            return self.layer(generator=layers)
        return noise("", self.shape, torch.empty(0, dtype=self.dtype))


def _several(made: Any) -> tuple[Any, ...]:
    return made if isinstance(made, tuple) else (made,)


class Outside(NamedTuple):
    """A function that is computed outside of the graph in every step.

    Attributes:
        function: of the number of the step and of what is given.
        rows: for each thing that is given, whether it is the batch; otherwise, it is its context.
        outputs: what stands for each result; None for a result that is None.
        together: whether the function computes several steps at once (see `at_steps`).
    """

    function: Callable[..., Any]
    rows: tuple[bool, ...]
    outputs: list[Ref | None]
    together: bool = False

    def results(self, steps: Sequence[int], batches: Sequence[Batch]) -> list[list[Tensor]]:
        """Return the results that are not None, each a list with one tensor for each step."""
        given = [[batch.x if rows else batch.context for batch in batches] for rows in self.rows]
        if self.together:
            stacked = [torch.stack(each) for each in given]  # pyright: ignore[reportArgumentType]
            made = self.function(list(steps), *stacked)
            return [list(each.unbind()) for each in made if each is not None]
        each = [
            _several(self.function(step, *own)) for step, *own in zip(steps, *given, strict=True)
        ]
        results = zip(*each, strict=True)
        return [list(map(torch.as_tensor, made)) for made in results if made[0] is not None]


@dataclass
class Graph:
    """The loss and the gradient of an objective as operations on numbered tensors.

    Attributes:
        parameters: the parameters that are learned.
        buffers: the buffers of the objective, before a step.
        x: the batch.
        context: its context, or None.
        draws: the random numbers, in the order in which they are drawn.
        outside: the functions that are computed outside of the graph in every step.
        constants: tensors that are the same in every step.
        operations: in the order in which they were performed.
        loss: the loss.
        elbo: the plain ELBO of the batch.
        gradients: of the parameters; None for one that the loss does not depend on.
        updated: the buffers after a step.
    """

    parameters: list[Ref] = field(default_factory=list)
    buffers: list[Ref] = field(default_factory=list)
    x: Ref = Ref(-1)
    context: Ref | None = None
    draws: list[Draw] = field(default_factory=list)
    outside: list[Outside] = field(default_factory=list)
    constants: dict[Ref, Tensor] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    loss: Ref = Ref(-1)
    elbo: Ref = Ref(-1)
    gradients: list[Ref | None] = field(default_factory=list)
    updated: list[Ref] = field(default_factory=list)

    def values_of(self, names: Sequence[str]) -> int:
        """Return how many values the operations of these names compute in a step."""
        some = [each for each in self.operations if each.function._opname in names]
        return sum(like[0].numel() for each in some for like in each.like if like is not None)

    def pruned(self) -> Graph:
        """Return the graph without operations whose results nothing depends on."""
        wanted = {self.loss, self.elbo, *self.updated, *(g for g in self.gradients if g)}
        kept = []
        for operation in reversed(self.operations):
            if wanted.isdisjoint(operation.outputs):
                continue
            kept.append(operation)
            wanted.update(refs(operation.args), refs(operation.kwargs))
        constants = {ref: each for ref, each in self.constants.items() if ref in wanted}
        return Graph(**{**self.__dict__, "operations": kept[::-1], "constants": constants})


def refs(value: Any) -> list[Ref]:
    """Return all tensors of a graph among (nested) arguments."""
    if isinstance(value, Ref):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [ref for each in value for ref in refs(each)]


class _Step:
    """Stands for the number of the step: functions of it become inputs of the graph."""

    def __init__(self, recorder: _Recorder) -> None:
        self.recorder = recorder

    def value_of(self, function: Callable[..., Any], given: tuple[Tensor, ...]) -> Any:
        """Return tensors that stand for ``function(step, *given)`` in every step."""
        with _disable_current_modes():
            made = function(0, *given)
        tensors = self._noted(function, given, _several(made))
        return tuple(tensors) if isinstance(made, tuple) else tensors[0]

    def values_of(self, function: Callable[..., Any], given: tuple[Tensor, ...]) -> Any:
        """Return tensors that stand for the results of `at_steps` in every step."""
        with _disable_current_modes():
            made = function([0], *(each[None] for each in given))
            first = [None if each is None else each[0] for each in made]
        return tuple(self._noted(function, given, first, together=True))

    def _noted(
        self,
        function: Callable[..., Any],
        given: tuple[Tensor, ...],
        made: Sequence[Any],
        together: bool = False,
    ) -> list[Tensor | None]:
        """Note a function that is computed outside of the graph; return its results as tensors."""
        graph = self.recorder.graph
        refs = [self.recorder.ref(each) for each in given]
        if any(ref not in (graph.x, graph.context) for ref in refs):
            raise Unrecordable("what is computed outside of the graph depends on more than rows")
        tensors = [None if each is None else torch.as_tensor(each) for each in made]
        outputs = [None if each is None else self.recorder.input(each) for each in tensors]
        rows = tuple(ref == graph.x for ref in refs)
        graph.outside.append(Outside(function, rows, outputs, together))
        return tensors

    def _used(self, *_: object) -> Any:
        raise Unrecordable("the objective changes from step to step")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __mod__ = _used
    __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __int__ = __float__ = __index__ = _used
    __repr__ = _used


def record(objective: nn.Module, batch: Batch) -> Graph:
    """Return the graph of the loss of a batch and of its gradient.

    The objective is left as it is: buffers that a step changes get their values back.

    Args:
        objective: a `lowerbound.nn.objectives.elbo` objective in training mode.
        batch: a batch of the size of all others.

    Raises:
        Unrecordable: if a step depends on more than weights, batch and noise, if its operations
            depend on their values, or if a layer draws from torch's global generator.
    """
    source, layers = Stream(generator("recorded")), generator("recorded", "layers")
    before = [buffer.clone() for buffer in objective.buffers()]
    parameters = [p for p in objective.parameters() if p.requires_grad]
    recorder = _Recorder(layers)
    graph = recorder.graph
    graph.parameters = [recorder.input(p) for p in parameters]
    graph.buffers = [recorder.input(buffer) for buffer in objective.buffers()]
    graph.x = recorder.input(batch.x)
    graph.context = None if batch.context is None else recorder.input(batch.context)

    def drawn(name: str, shape: Size, like: Tensor) -> Tensor:
        with _disable_current_modes():
            made = source(name, shape, like)
        graph.draws.append(Draw(recorder.input(made), Size(shape), made.dtype))
        return made

    try:
        with lent(objective, layers), recording(), recorder:
            loss = objective(batch.x, _Step(recorder), drawn, batch.context)
            found = torch.autograd.grad(loss.value, parameters, allow_unused=True)
        graph.loss = recorder.ref(loss.value)
        graph.elbo = recorder.ref(loss.terms["elbo"])
        graph.gradients = [None if g is None else recorder.ref(g) for g in found]
        graph.updated = [recorder.ref(buffer) for buffer in objective.buffers()]
    finally:
        with torch.no_grad():
            for buffer, value in zip(objective.buffers(), before, strict=True):
                buffer.copy_(value)
    return graph.pruned()


_VALUES = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


def _is_plain_index(func: Any, args: Sequence[Any]) -> bool:
    """Return True for an index of numbers, whose shape, unlike a mask's, is known."""
    if func._opname not in ("index", "_unsafe_index"):
        return False
    return all(index is None or index.dtype is not torch.bool for index in args[1])


class _Recorder(TorchDispatchMode):
    """Notes the operations performed inside the block."""

    def __init__(self, layers: torch.Generator) -> None:
        super().__init__()
        self.graph, self.layers = Graph(), layers
        self._refs: dict[int, Ref] = {}
        self._alive: list[Tensor] = []  # so that no other tensor gets the id of a noted one
        self._sharing: dict[int, list[Tensor]] = {}  # noted tensors by their memory
        self._stale: set[int] = set()  # those changed through another tensor of the same memory

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler for this mode."""
        return False

    def input(self, tensor: Tensor) -> Ref:
        """Note a tensor that is given."""
        ref = self._refs[id(tensor)] = Ref(len(self._alive))
        self._alive.append(tensor)
        self._sharing.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)
        return ref

    def ref(self, tensor: Tensor) -> Ref:
        """Return what stands for a tensor; one that was not seen before is a constant."""
        if id(tensor) in self._stale:
            raise Unrecordable("it changes a part of a tensor in place")
        ref = self._refs.get(id(tensor))
        if ref is None:
            ref = self.input(tensor)
            self.graph.constants[ref] = tensor.detach().clone()
        return ref

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.ref(value)
        if isinstance(value, list | tuple):
            return type(value)(self._replaced(each) for each in value)
        return value

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Perform an operation and note it."""
        kwargs = kwargs or {}
        if any(tag in func.tags for tag in _VALUES) and not _is_plain_index(func, args):
            raise Unrecordable(f"its operations depend on values ({func.overloadpacket})")
        if torch.Tag.nondeterministic_seeded in func.tags:
            return self._drawn(func, args, kwargs)
        given = self._replaced(args), {name: self._replaced(v) for name, v in kwargs.items()}
        made = func(*args, **kwargs)
        changed = self._changed(func, args, kwargs)
        outputs: Sequence[Any] = made if isinstance(made, list | tuple) else [made]
        if not all(any(each is output for output in outputs) for each in changed):
            raise Unrecordable(f"an operation changes what it is given ({func.overloadpacket})")
        named = []
        for output in outputs:
            if not isinstance(output, Tensor):
                named.append(None)
                continue
            if any(output is each for each in changed):
                self._change(output)
            elif id(output) not in self._refs:
                self.input(output)
            named.append(self._refs[id(output)])
        like = tuple((o.shape, o.dtype) if isinstance(o, Tensor) else None for o in outputs)
        self.graph.operations.append(Operation(func, *given, tuple(named), like))
        return made

    def _drawn(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Note the random numbers of a layer as an input of the graph."""
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        given = kwargs.get("generator")  # another Python object for the same generator
        lent = given is not None and given.initial_seed() == self.layers.initial_seed()
        if tensors or not lent:
            raise Unrecordable(f"a layer draws random numbers ({func.overloadpacket})")
        made = func(*args, **kwargs)
        call = partial(func, *args, **{k: v for k, v in kwargs.items() if k != "generator"})
        self.graph.draws.append(Draw(self.input(made), made.shape, made.dtype, call))
        return made

    def _changed(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Return the arguments that an operation writes to."""
        if not func._schema.is_mutable:
            return []
        names = [argument.name for argument in func._schema.arguments]
        values = {**dict(zip(names, args, strict=False)), **kwargs}
        return [
            values[argument.name]
            for argument in func._schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write
        ]

    def _change(self, tensor: Tensor) -> None:
        """Give a tensor that was changed a new number, and remember those that share its memory.

        They changed too, so that they may not be used any more.
        """
        sharing = self._sharing[tensor.untyped_storage()._cdata]
        self._stale.update(id(each) for each in sharing if each is not tensor)
        self._refs[id(tensor)] = Ref(len(self._alive))
        self._alive.append(tensor)
