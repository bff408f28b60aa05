"""Choose threads, kernels, layout and precision for a fit, from shapes and measurements.

Nothing is timed during a fit, so that two runs of one command give identical files. The machine is
measured once (`lowerbound.training.engine.machine`), and the choice is saved in every checkpoint,
so that a resumed fit continues with the same one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.coding.rows import Batch
from lowerbound.files import allocators
from lowerbound.nn.model import evaluating
from lowerbound.tasks.parts import threads
from lowerbound.training.engine.graphs import Unrecordable, record
from lowerbound.training.engine.kernels import replaced
from lowerbound.training.engine.machine import GAIN, Machine

SMALL_STEP = 4e7  # floating-point operations of a forward pass below which one thread is faster
SAVED = 1e-5  # seconds that compiling saves per operation of a step
SLOW = ("lgamma", "digamma", "polygamma")  # operations that torch computes faster
SLOWER = 2e-8  # seconds that a value of such an operation takes longer
COMPILING = 7.5e-3  # seconds that it takes per operation
LOADING = 1.0  # seconds to load the compiler
COMPILE_TIME = 0.1  # largest share of a time limit that compiling takes
TAKEN = 0.5  # share of the largest number of steps that a fit takes before it stops early
MOST_STEPS = 50  # of one call of a compiled program
BURST_BYTES = 1 << 25  # of the batches of one call
BURST_SECONDS = 0.25  # of one call: Ctrl-C waits for its end
RATE = 3e10  # floating-point operations per second, for that forecast
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class Engine:
    """Threads, kernels, layout and precision of one fit.

    Attributes:
        threads: number of torch threads.
        linear: the kernel of linear layers, "torch" or "onednn".
        channels_last: whether images and convolutions use the channels-last memory format.
        precision: "float32", or "bfloat16" for products under autocast (densities are always
            float32).
        burst: largest number of steps that one call of the compiled program takes; 0 where the
            steps are torch's.
        why: the reason why the steps are not compiled, if the user can do something about it.
    """

    threads: int = 1
    linear: str = "torch"
    channels_last: bool = False
    precision: str = "float32"
    burst: int = 0
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the choice and its reasons, for the progress output."""
        threads = f"{self.threads} threads"
        if self.threads == 1:  # the machine has one, or one is faster
            threads = "1 thread (small steps)" if torch.get_num_threads() > 1 else "1 thread"
        kernel = ", oneDNN products (faster here)" if self.linear == "onednn" else ""
        layout = ", channels last (faster here)" if self.channels_last else ""
        compiled = "compiled by XLA, " if self.burst else ""
        why = f" (not compiled: {self.why})" if self.why else ""
        return f"{compiled}{threads}{kernel}{layout}, {self.precision}{why}"

    def prepare(self, objective: nn.Module) -> None:
        """Convert the parameters to the chosen memory format."""
        if self.channels_last:
            # torch's own stub does not know the keyword of this overload.
            objective.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def finish(self, objective: nn.Module) -> None:
        """Convert the parameters back, so that results are those of the loaded model."""
        if self.channels_last:
            objective.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]

    def arranged(self, x: Tensor) -> Tensor:
        """Return a batch in the chosen memory format."""
        if self.channels_last and x.dim() == 4:
            return x.contiguous(memory_format=torch.channels_last)
        return x

    def mixed(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the context manager of a forward pass: autocast if the precision is bfloat16."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)

    @contextmanager
    def running(self, objective: nn.Module) -> Iterator[None]:
        """Use these threads and kernels inside the block, in the calling thread only."""
        allocators.keep()
        with threads(self.threads), replaced(objective, self.linear):
            yield


def choose(
    objective: nn.Module, batch: Batch, machine: Machine, precision: str = "float32"
) -> Engine:
    """Choose the engine for training an objective on batches like `batch`.

    Args:
        objective: the objective to train.
        batch: a batch of the size of a step.
        machine: measurements of the machine.
        precision: "float32" or "bfloat16".
    """
    device = next(objective.parameters()).device
    convolutions = any(isinstance(m, _CONVOLUTIONS) for m in objective.modules())
    if device.type != "cpu":  # fast convolution kernels of accelerators need channels-last
        return Engine(torch.get_num_threads(), "torch", convolutions, precision)
    products = flops(objective, batch)
    count = 1 if products < SMALL_STEP else torch.get_num_threads()
    layers = [m.weight.numel() for m in objective.modules() if isinstance(m, nn.Linear)]
    onednn = max(layers, default=0) * len(batch.x) >= machine.onednn_from(count)
    # The gradient of a depthwise convolution takes a quarter of the time in this layout.
    depthwise = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in objective.modules())
    channels_last = depthwise or (convolutions and machine.channels_last >= GAIN)
    return Engine(count, "onednn" if onednn else "torch", channels_last, precision)


def compiling(
    engine: Engine, objective: nn.Module, batch: Batch, steps: int, seconds: float | None = None
) -> Engine:
    """Return an engine that compiles the steps of a fit, if that takes less time in all.

    The time saved and the time to compile are predicted from the number of operations in a step,
    so the choice depends on the model and the rows alone, and not on what is cached.

    Args:
        engine: the engine chosen for torch.
        objective: the objective to train.
        batch: a batch of the size of a step.
        steps: largest number of steps of the fit.
        seconds: its time limit, or None.
    """
    usual = batch.x.device.type == "cpu" and engine.precision == "float32"
    # Convolutions by oneDNN are faster than XLA's.
    if not usual or any(isinstance(m, _CONVOLUTIONS) for m in objective.modules()):
        return engine
    try:
        with _training(objective):
            graph = record(objective, batch)
    except Unrecordable:
        return engine
    operations = len(graph.operations)
    took = COMPILING * operations + LOADING
    saved = SAVED * operations - SLOWER * graph.values_of(SLOW)
    if saved * steps * TAKEN < took or took > COMPILE_TIME * (seconds or math.inf):
        return engine
    if find_spec("jax") is None:
        return replace(engine, why="pip install 'lowerbound[fast]' makes it several times as fast")
    if import_module("lowerbound.training.engine.jax_operations").unknown(graph):
        return engine
    size = batch.x.numel() * batch.x.element_size()
    each = 3 * flops(objective, batch) / RATE + SAVED * operations
    burst = int(min(MOST_STEPS, BURST_BYTES // size, BURST_SECONDS / each))
    return replace(engine, linear="torch", channels_last=False, burst=max(1, burst))


@contextmanager
def _training(objective: nn.Module) -> Iterator[None]:
    """Put an objective in training mode inside the block."""
    resting = [module for module in objective.modules() if not module.training]
    objective.train()
    try:
        yield
    finally:
        for module in resting:
            module.training = False


@torch.no_grad()
def flops(objective: nn.Module, batch: Batch) -> int:
    """Count the floating-point operations of linear layers and convolutions in a forward pass.

    torch's own counter covers every product, but imports torch's compiler, which takes seconds.
    This count only has to distinguish small from large.
    """
    counted = 0

    def count(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal counted
        weight = layer.weight  # a parameter, or the result of a parametrisation
        assert isinstance(weight, Tensor)
        # Each output of a layer takes one row of its weights; transposed, each input does.
        outputs = given[0] if isinstance(layer, nn.ConvTranspose2d) else made
        counted += 2 * outputs.numel() * weight[0].numel()

    layers = [m for m in objective.modules() if isinstance(m, (nn.Linear, *_CONVOLUTIONS))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    x, context = batch
    try:
        with evaluating(objective):  # running statistics must not see this pass
            objective(x, 0, noise.Stream(noise.generator("flops", device=x.device)), context)
    finally:
        for hook in hooks:
            hook.remove()
    return counted
