"""Choose threads, kernels, layout and precision for a fit, from shapes and measurements.

Nothing is timed during a fit, so that two runs of one command give identical files. The machine is
measured once (`lowerbound.training.engine.machine`), and the choice is saved in every checkpoint,
so that a resumed fit continues with the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.coding.rows import Batch
from lowerbound.files import allocators
from lowerbound.nn.model import evaluating
from lowerbound.training.engine.kernels import replaced
from lowerbound.training.engine.machine import GAIN, Machine, threads

SMALL_STEP = 4e7  # floating-point operations of a forward pass below which one thread is faster
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
    """

    threads: int = 1
    linear: str = "torch"
    channels_last: bool = False
    precision: str = "float32"

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
        return f"{threads}{kernel}{layout}, {self.precision}"

    def prepare(self, objective: nn.Module) -> None:
        """Convert the parameters to the chosen memory format."""
        if self.channels_last:
            # torch's own stub does not know the keyword of this overload.
            objective.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

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
