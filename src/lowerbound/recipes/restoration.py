"""Models of one picture given another: p(x | y), which denoise, enlarge, complete and segment.

A U-Net looks at what is given, y; levels of latents on top of it say what y leaves open; their
prior depends on y, so that restoring is sampling: z from p(z | y), x from p(x | z, y). Everything
is convolution: a model works on pictures of any size.

References:
    Sohn, Lee & Yan, "Learning structured output representation using deep conditional generative
    models", 2015; Kohl et al., "A probabilistic U-Net for segmentation of ambiguous images", 2018,
    https://arxiv.org/abs/1806.05034; in levels: Baumgartner et al., "PHiSeg", 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound.coding.augmentations import Holed, Shrunk
from lowerbound.coding.degradations import USUAL_NOISE, noise_of
from lowerbound.coding.pairs import PairsFor, Restoration
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.families import Conditional, Family, LatentGaussian
from lowerbound.nn.distributions.pixels import Softmax
from lowerbound.nn.distributions.table_rows import WithMissing
from lowerbound.nn.latents.posteriors import Residual
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.mlp import Filled, Mapped, Reader
from lowerbound.nn.networks.unet import Beside, Bicubic, Merge, Onto, UNet
from lowerbound.recipes.choosing import choice
from lowerbound.recipes.images import likelihood_of, positive
from lowerbound.recipes.record import Recipe

_SCALES = 3  # of the U-Net: it sees about 100 pixels around each
_STRIDES = (8, 2, 4, 1)  # of the levels' latents, in pixels of the U-Net, the coarsest first
_REACH = 5.0  # of the means and log sigmas of latents, and of how a posterior differs
FOLD = 2  # pixels of a picture, in each direction, that the U-Net sees as one
# Those of values in [0, 1], as pictures are given and wanted here: of codes and bits none is.
_LIKELIHOODS = {
    name: name for name in ("optimal", "shared", "element", "gaussian", "continuous_bernoulli")
}


def _scale_of(settings: Mapping[str, Any]) -> int:
    return int(settings.get("scale", 4))


def multiple_of(fold: int) -> int:
    """Return what the height and width of a given picture must be multiples of."""
    return fold * max(_STRIDES)


def _of_shares(likelihood: str, channels: int, missing: bool) -> tuple[Family, Mapped]:
    """Return the family of a likelihood of values in [0, 1], and what reads them."""
    return likelihood_of(choice("likelihood", likelihood, _LIKELIHOODS), channels, missing)


class _Grades(Reader):
    """Class codes, NaN where there is no label, as one channel each."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.width = classes

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, classes, H, W); nothing anywhere where there is no label."""
        known = ~x.isnan()
        codes = x.nan_to_num(0.0)[:, 0].long()
        return F.one_hot(codes, self.width).movedim(-1, 1).to(x.dtype) * known


class _Pair(nn.Module):
    """The encoder: (x, y) -> the same features for every level.

    Args:
        reader: of x.
        fold: pixels of x per pixel of the features.
        given: (y) -> (B, D, h, w) as the U-Net sees it.
        channels: D.
        width: channels of the features.
        levels: how many levels there are.
    """

    def __init__(
        self, reader: Reader, fold: int, given: nn.Module, channels: int, width: int, levels: int
    ) -> None:
        super().__init__()
        self.reader, self.fold, self.given, self.levels = reader, fold, given, levels
        self.net = nn.Sequential(
            nn.Conv2d(reader.width * fold**2 + channels, width, 3, 1, 1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.SiLU(),
        )

    def forward(self, x: Tensor, context: Tensor | None) -> list[Tensor]:
        """Return one feature tensor per level."""
        assert context is not None, "a model that restores needs what it restores"
        seen = F.pixel_unshuffle(self.reader(x), self.fold)
        return [self.net(torch.cat([seen, self.given(context)], 1))] * self.levels


def _level(name: str, carried: int, width: int, latent: int, stride: int) -> Level:
    """Return a level whose latents lie `stride` pixels apart; `carried` channels are no features.

    Both ends of the KL see the state through the mean of a latent's pixels.
    """
    state = width + carried

    def head(inputs: int) -> nn.Sequential:
        pool = [nn.AvgPool2d(stride)] if stride > 1 else []
        last = nn.Conv2d(width, 2 * latent, 3, 1, 1)
        with torch.no_grad():  # prior and posterior begin alike, and near N(0, 1)
            last.weight.mul_(0.1)
        return nn.Sequential(nn.Conv2d(inputs, width, 1), nn.SiLU(), *pool, last)

    prior = Conditional(head(state), LatentGaussian(_REACH))
    posterior = Residual(head(state + width), _REACH)
    return Level(name, prior, posterior, Merge(width, latent, stride, 1))


def _restorer(  # noqa: PLR0913, PLR0917 - the parts in which the recipes differ
    family: Family,
    numbers: int,
    reader: Reader,
    given: nn.Module,
    base: nn.Module,
    sizes: tuple[int, int, int, int],
    shape: tuple[int, int, int, int],
) -> LatentModel:
    """Compose a conditional model.

    Args:
        family: of the likelihood.
        numbers: of the likelihood, per pixel.
        reader: of x.
        given: y as the U-Net sees it.
        base: y as the likelihood's first numbers are added to it.
        sizes: channels of `given`, channels of `base`, fold of x, fold of the output.
        shape: width, depth, levels, latent channels.
    """
    channels, carried, fold, out = sizes
    width, depth, levels, latent = shape
    positive(width=width, depth=depth, levels=levels, latent=latent)
    if levels > len(_STRIDES):
        raise UsageError(
            "E240",
            f"levels must be from 1 to {len(_STRIDES)}, got {levels}",
            fix="--set levels=2",
        )
    widths = [width * 2**scale for scale in range(_SCALES)]
    strides = sorted(_STRIDES[:levels], reverse=True)
    return LatentModel(
        _Pair(reader, fold, given, channels, width, levels),
        [_level(f"z{i}", carried, width, latent, stride) for i, stride in enumerate(strides)],
        Conditional(Onto(width, carried, numbers, out), family),
        Beside(nn.Sequential(given, UNet(channels, widths, depth)), base),
    )


class _Folded(nn.Module):
    """Pixels side by side as channels: (B, C, H, W) -> (B, C f^2, H / f, W / f), then scaled.

    References:
        Zhang, Zuo & Zhang, "FFDNet", 2018: four times as fast for the same receptive field,
        https://arxiv.org/abs/1710.04026

    Args:
        fold: f.
        channels: how many of the given channels are taken.
        scale: and
        shift: values v become scale v - shift.
    """

    def __init__(self, fold: int, channels: int, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.fold, self.channels, self.scale, self.shift = fold, channels, scale, shift

    def forward(self, context: Tensor) -> Tensor:
        """Return the folded picture."""
        folded = F.pixel_unshuffle(context[:, : self.channels], self.fold)
        return folded if self.scale == 1.0 else folded * self.scale - self.shift


class _Nothing(nn.Module):
    """No picture to add to: (B, C, H, W) -> (B, 0, H / f, W / f)."""

    def forward(self, context: Tensor) -> Tensor:
        """Return no channels, of the folded size."""
        batch, _, height, width = context.shape
        return context.new_zeros(batch, 0, height // FOLD, width // FOLD)


def denoise(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    channels: int = 1,
    width: int = 48,
    depth: int = 2,
    levels: int = 2,
    latent: int = 4,
    likelihood: str = "optimal",
    noise: str = USUAL_NOISE,
) -> LatentModel:
    """Clean pictures given noisy ones, both (B, channels, H, W) in [0, 1], of any size.

    Args:
        channels: 1 for grey, 3 for colours.
        width: channels of the U-Net's finest scale.
        depth: residual blocks per scale and way.
        levels: of latents.
        latent: channels of z, at every level.
        likelihood: "optimal", "shared" or "element" (sigma), as in `conv`.
        noise: that training adds, see `lowerbound.coding.degradations.noise_of`.
    """
    family, reader = _of_shares(likelihood, channels, False)
    seen = channels * FOLD**2
    noise_of(noise)  # refused here rather than in the middle of a fit
    return _restorer(
        family,
        family.numbers(channels),
        reader,
        _Folded(FOLD, channels, 2.0, 1.0),
        _Folded(FOLD, channels),
        (seen, seen, FOLD, FOLD),
        (width, depth, levels, latent),
    )


def upscale(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    channels: int = 1,
    scale: int = 4,
    width: int = 48,
    depth: int = 4,
    levels: int = 2,
    latent: int = 4,
    likelihood: str = "optimal",
) -> LatentModel:
    """Large pictures, (B, channels, H scale, W scale), given small ones, (B, channels, H, W).

    Args:
        channels: 1 for grey, 3 for colours.
        scale: how many times larger, in each direction: 2, 3 or 4.
        width: channels of the U-Net's finest scale.
        depth: residual blocks per scale and way.
        levels: of latents.
        latent: channels of z, at every level.
        likelihood: "optimal", "shared" or "element" (sigma), as in `conv`.
    """
    if scale not in (2, 3, 4):
        raise UsageError("E240", f"scale must be 2, 3 or 4, got {scale}", fix="--set scale=4")
    family, reader = _of_shares(likelihood, channels, False)
    enlarged = nn.Sequential(Bicubic(scale), _Folded(scale, channels))
    return _restorer(
        family,
        family.numbers(channels),
        reader,
        _Folded(1, channels, 2.0, 1.0),
        enlarged,
        (channels, channels * scale**2, scale, scale),
        (width, depth, levels, latent),
    )


def inpaint(
    channels: int = 3,
    width: int = 48,
    depth: int = 2,
    levels: int = 3,
    latent: int = 8,
    likelihood: str = "optimal",
) -> LatentModel:
    """What is in the holes of pictures, given the rest.

    y is (B, channels + 1, H, W): the picture with 0 in its holes, and 1 where a hole is; x has
    NaN where y shows it: p(x | y) is of the holes alone.

    Args:
        channels: 1 for grey, 3 for colours.
        width: channels of the U-Net's finest scale.
        depth: residual blocks per scale and way.
        levels: of latents.
        latent: channels of z, at every level.
        likelihood: "optimal", "shared" or "element" (sigma), as in `conv`.
    """
    family, _ = _of_shares(likelihood, channels, True)
    reader = Mapped(torch.full((), 2.0), 1.0, False, Filled(channels, False))
    seen = (channels + 1) * FOLD**2
    return _restorer(
        family,
        family.numbers(channels),
        reader,
        _Folded(FOLD, channels + 1, 2.0, 1.0),
        _Nothing(),
        (seen, 0, FOLD, FOLD),
        (width, depth, levels, latent),
    )


def segment(
    channels: int = 1,
    classes: int = 2,
    width: int = 32,
    depth: int = 2,
    levels: int = 2,
    latent: int = 2,
) -> LatentModel:
    """The class of every pixel, (B, 1, H, W) codes, given a picture, (B, channels, H, W).

    Pixels without a label are NaN and cost nothing.

    Args:
        channels: 1 for grey, 3 for colours.
        classes: how many.
        width: channels of the U-Net's finest scale.
        depth: residual blocks per scale and way.
        levels: of latents.
        latent: channels of z, at every level.
    """
    if classes < 2:
        raise UsageError(
            "E240", f"classes must be at least 2, got {classes}", fix="--set classes=2"
        )
    return _restorer(
        WithMissing(Softmax(classes)),
        classes,
        _Grades(classes),
        _Folded(FOLD, channels, 2.0, 1.0),
        _Nothing(),
        (channels * FOLD**2, 0, FOLD, FOLD),
        (width, depth, levels, latent),
    )


def _restoring(
    build: Callable[..., LatentModel],
    restoration: Restoration,
    objective: Mapping[str, Any] | None = None,
) -> Recipe:
    """Return the record of a model that learns from crops, of which few make a step."""
    return Recipe(
        build,
        lambda settings: PairsFor(restoration, settings),
        example={"channels": 1},
        objective=objective or {},
        batch_size=16,
        restoration=restoration,
        from_data=frozenset({"channels", "classes"}),
        explains=False,
    )


DENOISE = _restoring(
    denoise,
    Restoration(
        "denoise",
        lambda settings: noise_of(settings.get("noise", USUAL_NOISE)),
        lambda settings: f"noise {settings.get('noise', USUAL_NOISE)}",
    ),
)
UPSCALE = _restoring(
    upscale,
    Restoration(
        "upscale",
        lambda settings: Shrunk(_scale_of(settings)),
        lambda settings: f"{_scale_of(settings)} times smaller",
        scale=_scale_of,
    ),
)
INPAINT = _restoring(inpaint, Restoration("inpaint", lambda settings: Holed(), lambda _: "holes"))
# Without a share of draws from the prior, a few minutes of training leave masks that are drawn
# from it far behind a U-Net's.
SEGMENT = _restoring(
    segment, Restoration("segment", None, lambda _: "masks"), {"prior_share": 0.5}
)
