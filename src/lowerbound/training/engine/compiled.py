"""Many training steps as one program that XLA compiles: gradient, clipping, AdamW and average.

A step of a small network is hundreds of operations of a few microseconds each, whatever they
compute; compiled, they take as long as their arithmetic. The objective is not changed: its graph
is recorded once (`lowerbound.training.engine.graphs`) and run by JAX. Noise, batches and schedules
are those of the eager engine, so both engines compute the same fit up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.experimental.compilation_cache import compilation_cache
from torch import Tensor, nn

from lowerbound.coding.rows import Batch
from lowerbound.nn.networks.mlp import lent
from lowerbound.noise import Stream, derive, generator
from lowerbound.training.engine import jax_operations, machine
from lowerbound.training.engine.flat import Adam, Flat, MovingAverage
from lowerbound.training.engine.graphs import Ref, Unrecordable, record
from lowerbound.training.engine.settings import Optimiser

Array = Any

FOLDER = "jax_compilation_cache_dir"  # the name of JAX's setting
TOLERANCE = 1e-3  # largest error of a compiled gradient, relative to its norm
LARGE = 1 << 14  # numbers of a parameter that is not copied into one array with others
CACHE_BYTES = 1 << 28  # of compiled programs that are kept; the oldest are removed


class Inputs(NamedTuple):
    """The inputs of some steps; each array has one entry per step of a whole burst.

    Attributes:
        steps: how many of the entries are steps; the others are not looked at.
        arrays: the batches, the contexts, the draws and what is computed outside.
    """

    steps: int
    arrays: tuple[Any, ...]


class Outcome(NamedTuple):
    """The losses and ELBOs of some steps, nats per row, and whether each was finite."""

    losses: np.ndarray
    elbos: np.ndarray
    finite: np.ndarray


class _State(NamedTuple):
    """The training state; parameters, moments and average are split into groups of parameters."""

    values: tuple[Array, ...]
    first: tuple[Array, ...]
    second: tuple[Array, ...]
    steps: Array
    average: tuple[Array, ...]  # empty if the fit keeps none
    begun: Array  # whether the average has begun
    buffers: tuple[Array, ...]  # those that steps change
    averages: tuple[Array, ...]


class Begun(NamedTuple):
    """Steps that the program takes in the background: their results, and how many they are."""

    state: _State
    outcome: Array
    steps: int


class Program:
    """A compiled program of up to `burst` training steps.

    Args:
        objective: the objective, in training mode, on a CPU.
        flat: its parameters.
        batch: a batch of the size of all others.
        settings: of the optimiser.
        burst: largest number of steps of one call.
        threads: 1 keeps the program in one thread.

    Raises:
        Unrecordable: if the objective cannot be compiled; the message is the reason.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - independent parts
        self,
        objective: nn.Module,
        flat: Flat,
        batch: Batch,
        settings: Optimiser,
        burst: int,
        threads: int,
    ) -> None:
        self.flat, self.settings, self.burst = flat, settings, burst
        self.graph = record(objective, batch)
        unknown = jax_operations.unknown(self.graph)
        if unknown:
            raise Unrecordable(f"no compiled form of {', '.join(unknown)} is known")
        if len(flat.values) != 1 or flat.values[0].dtype is not torch.float32:
            raise Unrecordable("its parameters are not all float32")
        if not all(p.is_contiguous() for p in flat.parameters):
            raise Unrecordable("its parameters are not contiguous")
        self._groups = _grouped([p.numel() for p in flat.parameters])
        self._shapes = [tuple(p.shape) for p in flat.parameters]
        learned = [p for p in objective.parameters() if p.requires_grad]
        given = {id(p): ref for p, ref in zip(learned, self.graph.parameters, strict=True)}
        self._parameters = [given[id(p)] for p in flat.parameters]
        gradients = dict(zip(self.graph.parameters, self.graph.gradients, strict=True))
        self._gradients = [gradients[ref] for ref in self._parameters]
        self._buffers = dict(zip(self.graph.buffers, objective.named_buffers(), strict=True))
        pairs = zip(self.graph.buffers, self.graph.updated, strict=True)
        self._changing = {ref: new for ref, new in pairs if ref != new}
        # They are given to the program, which then serves other rows of the same shape as well.
        kept = {ref: b for ref, (_, b) in self._buffers.items() if ref not in self._changing}
        self._fixed = {ref: _array(buffer).copy() for ref, buffer in kept.items()}
        with jax.enable_x64(True):
            state = self._state(Adam(flat), None)
            inputs = self.inputs([batch], [0], [(torch.Generator(), torch.Generator())])
            rates = np.zeros(burst, np.float32)
            fixed = tuple(self._fixed.values())
            lowered = jax.jit(self._many).lower(1, state, inputs.arrays, rates, rates, fixed)
            with _kept():
                self._run = lowered.compile({"xla_cpu_multi_thread_eigen": threads > 1})

        self._verify(objective, batch)

    def _verify(self, objective: nn.Module, batch: Batch) -> None:
        """Compare one step with torch's, on another batch with other noise than was recorded.

        Raises:
            Unrecordable: if they differ.
        """
        context = None if batch.context is None else batch.context.flip(0)
        batch = Batch(batch.x.flip(0), context)
        adam, place, clip = Adam(self.flat), self.burst, self.settings.clip
        layers = generator("verified", "layers")
        inputs = self.inputs([batch], [place], [(generator("verified"), layers)])
        begun = self.start(adam, None, inputs, [0.0], 1)
        before = [buffer.clone() for buffer in objective.buffers()]
        noise = Stream(generator("verified"))
        with lent(objective, layers.manual_seed(derive("verified", "layers"))):
            loss = objective(batch.x, place, noise, batch.context).value
        found = torch.autograd.grad(loss, self.flat.parameters, allow_unused=True)
        with torch.no_grad():
            for buffer, value in zip(objective.buffers(), before, strict=True):
                buffer.copy_(value)
        pairs = zip(found, self.flat.parameters, strict=True)
        wanted = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
        norm, told = float(wanted.norm()), float(loss.detach())
        scale = (1 - self.settings.betas[0]) * min(1.0, clip / (norm + 1e-6))
        first = np.concatenate([np.asarray(part) for part in begun.state.first])
        error = np.linalg.norm(first / scale - wanted.numpy())
        off = abs(float(begun.outcome[0, 0]) - told)
        if not (error <= TOLERANCE * (norm + 1e-6) and off <= TOLERANCE * (1 + abs(told))):
            raise Unrecordable("the compiled gradient differs from that of torch")

    def inputs(
        self,
        batches: Sequence[Batch],
        steps: Sequence[int],
        sources: Iterable[tuple[torch.Generator, torch.Generator]],
    ) -> Inputs:
        """Return the inputs of some steps.

        Args:
            batches: one batch per step.
            steps: the number of each step, as the objective is given it.
            sources: the generators of each step's noise and of its layers.
        """
        each = [
            [draw.drawn(Stream(noise), layers) for draw in self.graph.draws]
            for noise, layers in sources
        ]
        made = [each for part in self.graph.outside for each in part.results(steps, batches)]
        x = self._stacked([batch.x for batch in batches])
        context = None
        if batches[0].context is not None:
            context = self._stacked([batch.context for batch in batches])  # pyright: ignore
        draws = tuple(map(self._stacked, zip(*each, strict=True)))
        outside = tuple(map(self._stacked, made))
        return Inputs(len(steps), (x, context, draws, outside))

    def _stacked(self, tensors: Sequence[Tensor]) -> np.ndarray:
        """Return the tensors of some steps as one array with a place for each step of a burst."""
        first = tensors[0]
        array = torch.empty(self.burst, *first.shape, dtype=first.dtype)
        torch.stack(tuple(tensors), out=array[: len(tensors)])
        return array.numpy()

    def start(
        self,
        adam: Adam,
        average: MovingAverage | None,
        inputs: Inputs,
        rates: Sequence[float],
        step: int,
    ) -> Any:
        """Begin some steps; the program runs in the background.

        Args:
            adam: the optimiser's state.
            average: the moving average, if there is one.
            inputs: of the steps.
            rates: the learning rate of each.
            step: number of the first one, from 1.
        """
        count = np.arange(step, step + self.burst)
        shares = np.zeros(self.burst, np.float32)
        if average is not None:
            shares = np.maximum(1 - average.decay, 9 / (10 + count)).astype(np.float32)
        padded = np.zeros(self.burst, np.float32)
        padded[: len(rates)] = rates
        with jax.enable_x64(True):
            state = self._state(adam, average)
            given = inputs.arrays, padded, shares, tuple(self._fixed.values())
            state, outcome = self._run(inputs.steps, state, *given)
        return Begun(state, outcome, inputs.steps)

    def finish(self, begun: Begun, adam: Adam, average: MovingAverage | None) -> Outcome:
        """Wait for the steps that `start` began, and load what they changed."""
        state, outcome, steps = begun
        self._load(self.flat.values[0], state.values)
        self._load(adam.first[0], state.first)
        self._load(adam.second[0], state.second)
        np.copyto(adam.steps[0].numpy(), np.asarray(state.steps))
        for ref, new in zip(self._changing, state.buffers, strict=True):
            np.copyto(self._buffers[ref][1].numpy(), np.asarray(new))
        if average is not None and bool(state.begun):
            if average.weights is None:
                average.weights = self.flat.weights()
            self._load(average.weights.values[0], state.average)
            for ref, new in zip(self._changing, state.averages, strict=True):
                name = self._buffers[ref][0]
                np.copyto(average.weights.buffers[name].numpy(), np.asarray(new))
        losses, elbos, finite = np.asarray(outcome)[:steps].T
        return Outcome(losses, elbos, finite > 0)

    def _state(self, adam: Adam, average: MovingAverage | None) -> _State:
        weights = None if average is None else average.weights
        averaged = self.flat.values[0] if weights is None else weights.values[0]
        names = [self._buffers[ref][0] for ref in self._changing]
        buffers = tuple(_array(self._buffers[ref][1]) for ref in self._changing)
        return _State(
            self._parts(self.flat.values[0]),
            self._parts(adam.first[0]),
            self._parts(adam.second[0]),
            _array(adam.steps[0]),
            self._parts(averaged) if self.settings.ema else (),
            np.bool_(weights is not None),
            buffers,
            buffers if weights is None else tuple(_array(weights.buffers[n]) for n in names),
        )

    def _parts(self, flat: Tensor) -> tuple[np.ndarray, ...]:
        """Return a flat tensor in groups of parameters."""
        return tuple(_array(flat)[group.start : group.stop] for group in self._groups)

    def _load(self, flat: Tensor, parts: Sequence[Array]) -> None:
        """Copy groups of parameters into a flat tensor."""
        for group, part in zip(self._groups, parts, strict=True):
            np.copyto(flat.numpy()[group.start : group.stop], np.asarray(part))

    def _many(
        self,
        count: Array,
        state: _State,
        inputs: tuple[Any, ...],
        rates: Array,
        shares: Array,
        fixed: tuple[Array, ...],
    ) -> tuple[_State, Array]:
        """Take `count` steps; this function is compiled."""

        def one(i: Array, carried: tuple[_State, Array]) -> tuple[_State, Array]:
            state, told = carried
            x, context, draws, outside = jax.tree.map(lambda each: each[i], inputs)
            values: dict[Ref, Array] = {
                self.graph.x: x,
                **dict(zip(self._fixed, fixed, strict=True)),
            }
            if self.graph.context is not None:
                values[self.graph.context] = context
            values |= {d.ref: each for d, each in zip(self.graph.draws, draws, strict=True)}
            refs = [ref for part in self.graph.outside for ref in part.outputs if ref]
            values |= dict(zip(refs, outside, strict=True))
            state, row = self._step(state, values, rates[i], shares[i])
            return state, told.at[i].set(row)

        told = jnp.zeros((self.burst, 3), jnp.float32)
        return jax.lax.fori_loop(0, count, one, (state, told))

    def _step(
        self, state: _State, values: dict[Ref, Array], rate: Array, share: Array
    ) -> tuple[_State, Array]:
        place = 0
        for group, flat in zip(self._groups, state.values, strict=True):
            some = self._shapes[place : place + group.count]
            parts = jnp.split(flat, np.cumsum([math.prod(shape) for shape in some])[:-1].tolist())
            for part, shape in zip(parts, some, strict=True):
                values[self._parameters[place]] = part.reshape(shape)
                place += 1
        constants = self.graph.constants
        values |= {ref: jnp.asarray(_array(each)) for ref, each in constants.items()}
        values |= dict(zip(self._changing, state.buffers, strict=True))
        found = jax_operations.run(self.graph, values)
        each = [
            jnp.zeros(math.prod(shape), jnp.float32) if ref is None else found[ref].reshape(-1)
            for ref, shape in zip(self._gradients, self._shapes, strict=True)
        ]
        gradients, place = [], 0
        for group in self._groups:
            some = each[place : place + group.count]
            gradients.append(some[0] if group.count == 1 else jnp.concatenate(some))
            place += group.count
        loss, elbo = found[self.graph.loss], found[self.graph.elbo]
        norm = jnp.sqrt(sum(jnp.sum(gradient * gradient) for gradient in gradients))
        finite = jnp.isfinite(norm + loss)
        given = self.settings
        scale = jnp.where(norm > given.clip, given.clip / (norm + 1e-6), 1.0)
        moved = self._adam(state, [gradient * scale for gradient in gradients], rate)
        whole = jnp.where(state.begun, share, 1.0).astype(jnp.float32)
        buffers = tuple(found[new] for new in self._changing.values())
        moved = moved._replace(
            average=tuple(map(partial(_lerp, share=whole), state.average, moved.values)),
            begun=jnp.ones_like(state.begun),
            buffers=buffers,
            averages=tuple(
                _lerp(mine, new, whole) if jnp.issubdtype(new.dtype, jnp.floating) else new
                for mine, new in zip(state.averages, buffers, strict=True)
            ),
        )
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        return kept, jnp.stack([loss, elbo, finite]).astype(jnp.float32)

    def _adam(self, state: _State, gradients: Sequence[Array], rate: Array) -> _State:
        """Return the state after a step of AdamW (Loshchilov & Hutter, 2019)."""
        given, one = self.settings, np.float32(1)
        b1, b2 = given.betas
        steps = state.steps + one
        exact = steps.astype(jnp.float64)
        size = (rate / (1 - b1**exact)).astype(jnp.float32)
        root = jnp.sqrt(1 - b2**exact).astype(jnp.float32)
        decay = one - rate * np.float32(given.weight_decay) if given.weight_decay else one

        def moved(value: Array, first: Array, second: Array, gradient: Array) -> tuple[Array, ...]:
            first = first + np.float32(1 - b1) * (gradient - first)
            second = np.float32(b2) * second + np.float32(1 - b2) * gradient * gradient
            shift = size * first / (jnp.sqrt(second) / root + np.float32(given.epsilon))
            return value * decay - shift, first, second

        made = map(moved, state.values, state.first, state.second, gradients)
        values, first, second = zip(*made, strict=True)
        return state._replace(values=values, first=first, second=second, steps=steps)


class _Group(NamedTuple):
    """Consecutive parameters that a program holds as one array: one is large, or all are small."""

    start: int
    stop: int
    count: int


def _grouped(sizes: Sequence[int]) -> list[_Group]:
    """Return the groups of parameters: few arrays, and no copies of large ones."""
    groups: list[_Group] = []
    start, before = 0, LARGE
    for size in sizes:
        small = size < LARGE and before < LARGE
        first, count = (groups[-1].start, groups.pop().count + 1) if small else (start, 1)
        groups.append(_Group(first, start + size, count))
        start, before = start + size, size
    return groups


def _lerp(mine: Array, value: Array, share: Array) -> Array:
    return jnp.where(
        share < 0.5, mine + share * (value - mine), value - (value - mine) * (1 - share)
    )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


_COMPILING = Lock()  # the place of JAX's cache is a setting of the whole process


@contextmanager
def _kept() -> Iterator[None]:
    """Keep what is compiled inside the block in the user's cache folder, if it is writable.

    A cache that the user has chosen for JAX is used instead.
    """
    folder = machine.cache_folder("xla")
    if getattr(jax.config, FOLDER) is not None or folder is None:
        yield
        return
    wanted = {
        FOLDER: str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_compilation_cache_max_size": CACHE_BYTES,
    }
    with _COMPILING:
        before = {name: getattr(jax.config, name) for name in wanted}
        try:
            for name, value in wanted.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
