"""Rows that are looked at in several walks need to be encoded only in the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

    encoder.forward = forward
    try:
        yield
    finally:
        del encoder.forward
