"""Walks that leave out a part: rows encoded once for several, latents that are not decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def encoded_once(model: nn.Module) -> Iterator[None]:
    """Let the model's part `encoder` remember, inside the block, the first rows that it reads.

    Asked about the same tensors again it gives back the same features; other tensors (as of a
    prior that encodes) it reads as always. For evaluation without gradients; a model without such
    a part is left as it is.
    """
    encoder = dict(model.named_children()).get("encoder")
    if encoder is None or "forward" in vars(encoder):
        yield
        return
    read, known = encoder.forward, []

    def forward(x: Tensor, context: Tensor | None) -> Any:
        if not known:
            known.extend([x, context, read(x, context)])
        return known[2] if x is known[0] and context is known[1] else read(x, context)

    with _instead(encoder, forward):
        yield


@contextmanager
def undecoded(model: nn.Module) -> Iterator[None]:
    """Let what comes after the last latents compute nothing inside the block.

    For walks of which only the latents are looked at: decoding takes half of their time. That is
    `advance` of the model's last level, and its `likelihood`, which returns None. A model without
    such parts is left as it is.
    """
    parts = dict(model.named_children())
    levels = parts.get("levels")
    last = getattr(levels[-1], "advance", None) if isinstance(levels, nn.ModuleList) else None
    likelihood = parts.get("likelihood")
    if likelihood is None or "forward" in vars(likelihood):
        yield
        return
    with ExitStack() as skipped:
        skipped.enter_context(_instead(likelihood, lambda h: None))
        if isinstance(last, nn.Module):
            skipped.enter_context(_instead(last, lambda h, z: h))
        yield


@contextmanager
def _instead(part: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a part of a model do something else inside the block."""
    part.forward = forward
    try:
        yield
    finally:
        del part.forward
