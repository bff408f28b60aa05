"""All parameters in one flat tensor and all gradients in another: few large operations per step.

For small networks, an optimiser that loops over parameters spends most of its time on overhead:
with 14 parameters of 9,000 numbers in total, AdamW took 128 us in a loop and 8 us on one tensor.
The gradient norm, the zeroing of gradients and the moving average gain as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Weights:
    """Values of all trainable parameters and buffers at one step.

    Attributes:
        values: one flat tensor per (dtype, device) of parameters, nearly always just one.
        buffers: the buffers by name.
    """

    values: list[Tensor]
    buffers: dict[str, Tensor]

    def copy(self) -> Weights:
        """Return a deep copy."""
        buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
        return Weights([value.clone() for value in self.values], buffers)

    def arrays(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors by name, for a checkpoint."""
        numbered = {f"{prefix}.values.{i}": value for i, value in enumerate(self.values)}
        return numbered | {f"{prefix}.buffers.{n}": b for n, b in self.buffers.items()}

    @classmethod
    def restored(cls, arrays: Mapping[str, Tensor], prefix: str) -> Weights | None:
        """Return the weights stored in `arrays` under this prefix, or None if there are none."""
        start = f"{prefix}.values."
        values = sorted((int(n.removeprefix(start)), n) for n in arrays if n.startswith(start))
        start = f"{prefix}.buffers."
        buffers = {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}
        return cls([arrays[name] for _, name in values], buffers) if values else None


class Flat:
    """The trainable parameters of a module, as views of flat tensors during training.

    Args:
        module: the module whose parameters become views, until `release`.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
        for parameter in module.parameters():
            if parameter.requires_grad:
                kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        self.parameters = [p for members in kinds.values() for p in members]
        self.values, self.gradients = [], []
        for members in kinds.values():
            values = members[0].new_empty(sum(p.numel() for p in members)).detach()
            gradients = torch.zeros_like(values)
            place = 0
            for p in members:
                # The strides are kept: a convolution's weights may lie in channels-last order.
                view = values.as_strided(p.size(), p.stride(), place)
                view.copy_(p.detach())
                p.data = view
                p.grad = gradients.as_strided(p.size(), p.stride(), place)
                place += p.numel()
            self.values.append(values)
            self.gradients.append(gradients)

    def clear(self) -> None:
        """Set all gradients to zero."""
        for gradient in self.gradients:
            gradient.zero_()

    def norm(self) -> Tensor:
        """Return the L2 norm of all gradients together."""
        norms = [torch.linalg.vector_norm(g).float() for g in self.gradients]
        return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))

    def scale(self, factor: float) -> None:
        """Multiply all gradients by `factor`."""
        for gradient in self.gradients:
            gradient.mul_(factor)

    def weights(self) -> Weights:
        """Return a copy of the current values."""
        buffers = {name: b.clone() for name, b in self.module.named_buffers()}
        return Weights([v.clone() for v in self.values], buffers)

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        """Load values that `weights` returned."""
        for mine, value in zip(self.values, weights.values, strict=True):
            mine.copy_(value)
        for name, buffer in self.module.named_buffers():
            buffer.copy_(weights.buffers[name])

    @contextmanager
    def showing(self, weights: Weights) -> Iterator[None]:
        """Use other weights in the module inside the block."""
        own = self.weights()
        self.load(weights)
        try:
            yield
        finally:
            self.load(own)

    def release(self) -> None:
        """Give every parameter its own memory again, and remove the gradients."""
        for p in self.parameters:
            p.data = p.data.clone()
            p.grad = None


class Buffers:
    """Copies of a module's buffers from before the last step, to undo a skipped step.

    A batch with a non-finite number would corrupt running statistics for good, even though its
    step is skipped; `restore` brings back the values from before it.

    Args:
        module: the module with the buffers; buffers that never change are copied only once.
    """

    def __init__(self, module: nn.Module) -> None:
        self.live = list(module.buffers())
        self.kept = [buffer.clone() for buffer in self.live]
        self.versions = [buffer._version for buffer in self.live]
        # The version counter of a buffer does not count the updates by a batch norm.
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        self.uncounted = {id(buffer) for norm in norms for buffer in norm.buffers()}

    def _changed(self) -> list[tuple[Tensor, Tensor]]:
        before, self.versions = self.versions, [buffer._version for buffer in self.live]
        known = zip(self.kept, self.live, before, self.versions, strict=True)
        return [
            (kept, live)
            for kept, live, old, new in known
            if old != new or id(live) in self.uncounted
        ]

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the current values."""
        for kept, live in self._changed():
            kept.copy_(live)

    @torch.no_grad()
    def restore(self) -> None:
        """Write back the values of the last `keep`."""
        for kept, live in self._changed():
            live.copy_(kept)


class Adam:
    """AdamW on flat tensors.

    torch's optimiser classes and its function `adamw` import torch's compiler at the first step,
    which takes longer than many fits. Therefore the fused kernel is called directly.

    Args:
        flat: the parameters.
        weight_decay: decoupled weight decay.
        betas: decay rates of the two moments.
        epsilon: constant added to the root of the second moment.

    References:
        Loshchilov & Hutter, "Decoupled weight decay regularization", 2019,
        https://arxiv.org/abs/1711.05101
    """

    def __init__(
        self,
        flat: Flat,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        self.flat, self.weight_decay = flat, weight_decay
        self.betas, self.epsilon = betas, epsilon
        self.first = [torch.zeros_like(v) for v in flat.values]
        self.second = [torch.zeros_like(v) for v in flat.values]
        self.steps = [v.new_zeros((), dtype=torch.float32) for v in flat.values]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take one step with learning rate `rate`."""
        for steps in self.steps:
            steps.add_(1.0)
        torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
            self.flat.values,
            self.flat.gradients,
            self.first,
            self.second,
            [],
            self.steps,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=rate,
            weight_decay=self.weight_decay,
            eps=self.epsilon,
            maximize=False,
        )

    def arrays(self) -> dict[str, Tensor]:
        """Return the state by name, for a checkpoint."""
        named = {"first": self.first, "second": self.second, "steps": self.steps}
        return {f"adam.{n}.{i}": t for n, each in named.items() for i, t in enumerate(each)}

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """Load the state that `arrays` returned."""
        for name, mine in self.arrays().items():
            mine.copy_(arrays[name])


class MovingAverage:
    """The exponential moving average of weights and buffers.

    In the first steps the decay is smaller, so that the average covers about the last ninth of
    the steps. With a constant decay, the initial weights would dominate it for a long time, and a
    short fit would keep them.

    Args:
        decay: decay per step, reached after about 10 / (1 - decay) steps.
        weights: the average of an interrupted run so far.
    """

    def __init__(self, decay: float, weights: Weights | None = None) -> None:
        self.decay, self.weights = decay, weights

    @torch.no_grad()
    def update(self, flat: Flat, step: int) -> None:
        """Move the average towards the current values; the first call copies them.

        Args:
            flat: the current values.
            step: number of the step, from 1.
        """
        if self.weights is None:
            self.weights = flat.weights()
            return
        share = max(1 - self.decay, 9 / (10 + step))
        for mine, value in zip(self.weights.values, flat.values, strict=True):
            mine.lerp_(value, share)
        for name, buffer in flat.module.named_buffers():
            mine = self.weights.buffers[name]
            if buffer.is_floating_point():
                mine.lerp_(buffer, share)
            else:
                mine.copy_(buffer)
