"""Restore one picture that is an array of 8 or 16 bits: its result, uncertainty and draws."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.coding.augmentations import with_holes
from lowerbound.coding.crops import shares
from lowerbound.coding.pairs import colours_of
from lowerbound.recipes import restoration
from lowerbound.tasks import restore
from lowerbound.tasks.finite import finite
from lowerbound.tasks.restore import Restored
from lowerbound.tasks.state import TrainedState

SPREAD = 4.0  # codes of an uncertainty map per code of standard deviation

Page = NDArray[Any]  # (H, W, C) of 8 or 16 bits


class Draws(NamedTuple):
    """Numbers of draws of a restoration, and their seed.

    Attributes:
        samples: number of draws that the result is the mean of.
        draws: number of draws that are returned besides the result.
        seed: of the draws.
    """

    samples: int = 8
    draws: int = 0
    seed: int = 0


class Pages(NamedTuple):
    """The output for one picture.

    Attributes:
        result: the restored picture, or the mask.
        uncertainty: (H, W, 1) of 8 bits.
        draws: further pictures or masks.
        doubt: mean uncertainty: standard deviation in 8-bit grey levels, or entropy in nats.
    """

    result: Page
    uncertainty: Page
    draws: list[Page]
    doubt: float


def classes_of(trained: TrainedState) -> NDArray[np.int64]:
    """Return the packed colours of the classes of a model; empty without classes."""
    return np.asarray(trained.coding.document()["classes"], np.int64)


def masks_of(trained: TrainedState) -> bool:
    """Return whether a model assigns a class to every pixel."""
    restoration = trained.recipe.restoration
    return restoration is not None and restoration.masks


def restore_page(
    trained: TrainedState,
    given: Page,
    how: Draws,
    hole: NDArray[np.bool_] | None = None,
    white: int | None = None,
) -> Pages:
    """Restore one picture, (H, W, C) of 8 or 16 bits.

    If the model has another number of channels, each channel of the picture is restored
    separately; a model of classes gets the mean of the channels.

    Args:
        trained: the model.
        given: the picture.
        how: the numbers of draws, and their seed.
        hole: (H, W), true where a hole is; None for models of whole pictures.
        white: the value of white of 16 bits; None is that of the training pictures.
    """
    known = int(trained.arguments["channels"])
    deep = white or trained.coding.wanted().white or np.iinfo(np.uint16).max
    white = deep if given.dtype == np.uint16 else np.iinfo(given.dtype).max
    x = torch.from_numpy(np.moveaxis(shares(given, white), -1, 0).copy())
    if masks_of(trained):
        return _masks(trained, _restored(trained, _seen(x, known), how), how)
    parts = [x] if known == len(x) else [_seen(part[None], known) for part in x]
    if hole is not None:
        place = torch.from_numpy(hole)[None, None]
        parts = [with_holes(part[None], place).context[0] for part in parts]  # pyright: ignore
    found = [_restored(trained, part, how) for part in parts]
    if len(found) > 1 or known != len(x):
        found = [_averaged(each) for each in found]
    joined = Restored(*(np.concatenate(part, -3) for part in zip(*found, strict=True)))
    return _pictures(joined, given, (how, hole), white)


def _seen(x: torch.Tensor, channels: int) -> torch.Tensor:
    """Return a picture with the channels of the model: unchanged, or grey in each channel."""
    if len(x) == channels:
        return x
    return x.mean(0, keepdim=True).expand(channels, -1, -1).contiguous()


def _averaged(found: Restored) -> Restored:
    """Return the mean over channels: the result of a colour model for one grey channel."""
    return Restored(*(part.mean(-3, keepdims=True) for part in found))


def _restored(trained: TrainedState, given: torch.Tensor, how: Draws) -> Restored:
    scale = int(trained.coding.document()["scale"])  # arguments hold what was set
    found = restore.restore(
        trained.model,
        given,
        draws=max(how.samples, how.draws),
        seed=how.seed,
        scale=scale,
        multiple=restoration.multiple_of(1 if scale > 1 else restoration.FOLD),
        keep=how.draws,
    )
    finite(found.mean, "pictures")
    return found


def _pictures(
    found: Restored, given: Page, order: tuple[Draws, NDArray[np.bool_] | None], highest: int
) -> Pages:
    """Return restored pictures with the bit depth of the given one."""
    how, hole = order

    def page(x: NDArray[np.float32]) -> Page:
        made = np.rint(np.moveaxis(x, 0, -1).clip(0, 1) * highest).astype(given.dtype)
        return made if hole is None else np.where(hole[..., None], made, given)

    spread = found.spread if hole is None else found.spread * hole
    codes = np.sqrt(np.square(spread).mean(0)) * 255
    shown = np.rint((codes * SPREAD).clip(0, 255)).astype(np.uint8)[..., None]
    doubt = float(codes.mean() if hole is None else codes[hole].mean() if hole.any() else 0.0)
    return Pages(page(found.mean), shown, [page(d) for d in found.draws[: how.draws]], doubt)


def _masks(trained: TrainedState, found: Restored, how: Draws) -> Pages:
    """Return masks in the colours of the training masks."""
    colours = classes_of(trained)
    p = found.mean.clip(1e-12)
    entropy = -(p * np.log(p)).sum(0)
    shown = np.rint((entropy / np.log(len(p))).clip(0, 1) * 255).astype(np.uint8)[..., None]
    result, *draws = (
        colours_of(colours[each.argmax(0)]) for each in (p, *found.draws[: how.draws])
    )
    return Pages(result, shown, draws, float(entropy.mean()))
