"""Conditional VAEs p(x | y) of one picture given another: denoise, enlarge, inpaint and segment.

A U-Net reads the given picture y. Levels of latents on top of it model what y does not determine.
Their prior depends on y, so that a picture is restored by sampling z from p(z | y) and x from
p(x | z, y). All layers are convolutions: a model works on pictures of any size.

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

from lowerbound.coding.augmentations import Downscaled, RandomHoles
from lowerbound.coding.degradations import USUAL_NOISE, noise_of
from lowerbound.coding.pairs import PairsFor, Restoration
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.families import Conditional, Family, LatentGaussian
from lowerbound.nn.distributions.pixels import Softmax
from lowerbound.nn.distributions.table_rows import WithMissing
from lowerbound.nn.latents.posteriors import Residual
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.mlp import FilledReader, MappedReader, Reader
from lowerbound.nn.networks.unet import (
    Bicubic,
    FeatureUpdate,
    ResidualOutput,
    RestorationStart,
    UNet,
)
from lowerbound.recipes.choosing import choice
from lowerbound.recipes.images import likelihood_of, positive
from lowerbound.recipes.record import Recipe

_SCALES = 3  # scales of the U-Net, for a receptive field of about 100 pixels
_STRIDES = (8, 2, 4, 1)  # strides of the levels' latents, in pixels of the U-Net
REACH = 5.0  # bound on the means and log sigmas of latents, and on a posterior's offsets
FOLD = 2  # side of the square of pixels that the U-Net reads as one pixel
# The likelihoods for values in [0, 1], the values of the pictures here.
_LIKELIHOODS = {
    name: name for name in ("optimal", "shared", "element", "gaussian", "continuous_bernoulli")
}


def _scale_of(settings: Mapping[str, Any]) -> int:
    return int(settings.get("scale", 4))


def multiple_of(fold: int) -> int:
    """Return the number that the height and width of a given picture must be multiples of."""
    return fold * max(_STRIDES)


def of_shares(likelihood: str, channels: int, missing: bool) -> tuple[Family, MappedReader]:
    """Return the family of a likelihood for values in [0, 1], and the reader of these values."""
    return likelihood_of(choice("likelihood", likelihood, _LIKELIHOODS), channels, missing)


class _Grades(Reader):
    """One-hot encoding of class codes, with NaN for pixels without a label."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.width = classes

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, classes, H, W) of 0 and 1; all 0 for pixels without a label."""
        known = ~x.isnan()
        codes = x.nan_to_num(0.0)[:, 0].long()
        return F.one_hot(codes, self.width).movedim(-1, 1).to(x.dtype) * known


class _Pair(nn.Module):
    """The encoder (x, y) -> the same features for every level.

    Args:
        reader: the reader of x.
        fold: side of the square of pixels of x per pixel of the features.
        given: y -> (B, D, h, w), the input of the U-Net.
        channels: D.
        width: channels of the features.
        levels: number of levels.
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
        assert context is not None, "a restoration model needs the given picture as context"
        seen = F.pixel_unshuffle(self.reader(x), self.fold)
        return [self.net(torch.cat([seen, self.given(context)], 1))] * self.levels


def _level(name: str, carried: int, width: int, latent: int, stride: int) -> Level:
    """Return a level whose latents are `stride` pixels apart.

    Prior and posterior both average the state over the pixels of a latent.

    Args:
        name: name of the level.
        carried: channels of the state that are passed through to the likelihood.
        width: channels of the features in the state.
        latent: channels of z.
        stride: distance of the latents, in pixels of the state.
    """
    state = width + carried

    def head(inputs: int) -> nn.Sequential:
        pool = [nn.AvgPool2d(stride)] if stride > 1 else []
        last = nn.Conv2d(width, 2 * latent, 3, 1, 1)
        with torch.no_grad():  # prior and posterior start close to N(0, 1)
            last.weight.mul_(0.1)
        return nn.Sequential(nn.Conv2d(inputs, width, 1), nn.SiLU(), *pool, last)

    prior = Conditional(head(state), LatentGaussian(REACH))
    posterior = Residual(head(state + width), REACH)
    return Level(name, prior, posterior, FeatureUpdate(width, latent, stride, 1))


def _restorer(  # noqa: PLR0913, PLR0917 - the parts that differ between the recipes
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
        family: family of the likelihood.
        numbers: parameters of the likelihood per pixel.
        reader: the reader of x.
        given: y -> the input of the U-Net.
        base: y -> the picture to which the likelihood's first parameters are added.
        sizes: channels of `given`, channels of `base`, fold of x, fold of the output.
        shape: width, depth, levels, latent channels.

    Raises:
        UsageError: E240 for sizes out of range.
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
        Conditional(ResidualOutput(width, carried, numbers, out), family),
        RestorationStart(nn.Sequential(given, UNet(channels, widths, depth)), base),
    )


class _Folded(nn.Module):
    """Fold squares of pixels into channels, (B, C, H, W) -> (B, C f^2, H / f, W / f), and scale.

    References:
        Zhang, Zuo & Zhang, "FFDNet", 2018, https://arxiv.org/abs/1710.04026: four times as fast
        for the same receptive field.

    Args:
        fold: f.
        channels: number of leading channels to use.
        scale: factor on the values.
        shift: subtracted from the scaled values.
    """

    def __init__(self, fold: int, channels: int, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.fold, self.channels, self.scale, self.shift = fold, channels, scale, shift

    def forward(self, context: Tensor) -> Tensor:
        """Return the folded picture."""
        folded = F.pixel_unshuffle(context[:, : self.channels], self.fold)
        return folded if self.scale == 1.0 else folded * self.scale - self.shift


class _Nothing(nn.Module):
    """A base without channels, (B, C, H, W) -> (B, 0, H / f, W / f)."""

    def forward(self, context: Tensor) -> Tensor:
        """Return an empty tensor of the folded size."""
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
    """A conditional VAE of clean pictures given noisy ones.

    Both are (B, channels, H, W) in [0, 1], of any size.

    Args:
        channels: 1 for grey, 3 for colour.
        width: channels of the U-Net at its finest scale.
        depth: residual blocks per scale, on the way down and on the way up.
        levels: number of levels of latents, from 1 to 4.
        latent: channels of z at each level.
        likelihood: "optimal", "shared" or "element" (sigma), as in `conv`.
        noise: noise added in training, see `lowerbound.coding.degradations.noise_of`.
    """
    family, reader = of_shares(likelihood, channels, False)
    seen = channels * FOLD**2
    noise_of(noise)  # raises for an invalid value here rather than in the middle of a fit
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
    """A conditional VAE of large pictures given small ones (super-resolution).

    Large pictures are (B, channels, H scale, W scale), small ones (B, channels, H, W), both in
    [0, 1].

    Args:
        channels: 1 for grey, 3 for colour.
        scale: enlargement in each direction: 2, 3 or 4.
        width: channels of the U-Net at its finest scale.
        depth: residual blocks per scale, on the way down and on the way up.
        levels: number of levels of latents, from 1 to 4.
        latent: channels of z at each level.
        likelihood: "optimal", "shared" or "element" (sigma), as in `conv`.
    """
    if scale not in (2, 3, 4):
        raise UsageError("E240", f"scale must be 2, 3 or 4, got {scale}", fix="--set scale=4")
    family, reader = of_shares(likelihood, channels, False)
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
    """A conditional VAE of the pixels in the holes of pictures, given the other pixels.

    y is (B, channels + 1, H, W): the picture with 0 in its holes, and a mask that is 1 in the
    holes. x is NaN outside the holes, so that p(x | y) covers the holes only.

    Args:
        channels: 1 for grey, 3 for colour.
        width: channels of the U-Net at its finest scale.
        depth: residual blocks per scale, on the way down and on the way up.
        levels: number of levels of latents, from 1 to 4.
        latent: channels of z at each level.
        likelihood: "optimal", "shared" or "element" (sigma), as in `conv`.
    """
    family, _ = of_shares(likelihood, channels, True)
    reader = MappedReader(torch.full((), 2.0), 1.0, False, FilledReader(channels, False))
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
    """A conditional VAE of the class of each pixel given a picture (segmentation).

    Classes are (B, 1, H, W) integer codes, NaN for pixels without a label, which are ignored in
    the likelihood. The picture is (B, channels, H, W) in [0, 1].

    Args:
        channels: 1 for grey, 3 for colour.
        classes: number of classes, at least 2.
        width: channels of the U-Net at its finest scale.
        depth: residual blocks per scale, on the way down and on the way up.
        levels: number of levels of latents, from 1 to 4.
        latent: channels of z at each level.
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
    """Return the record of a restoration model, which is trained on small batches of crops."""
    return Recipe(
        build,
        lambda settings: PairsFor(restoration, settings),
        example={"channels": 1},
        objective=objective or {},
        batch_size=16,
        restoration=restoration,
        from_data=frozenset({"channels", "classes"}),
        in_training=frozenset({"noise"}),
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
        lambda settings: Downscaled(_scale_of(settings)),
        lambda settings: f"{_scale_of(settings)} times smaller",
        scale=_scale_of,
    ),
)
INPAINT = _restoring(
    inpaint, Restoration("inpaint", lambda settings: RandomHoles(), lambda _: "holes")
)
# Without training draws from the prior, masks sampled after a few minutes of training are much
# worse than those of a plain U-Net.
SEGMENT = _restoring(
    segment, Restoration("segment", None, lambda _: "masks"), {"prior_share": 0.5}
)
