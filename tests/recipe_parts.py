"""Every recipe by name, small, with data that it can be trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core_parts import TABLE_FAMILIES, TABLE_SIZES
from lowerbound import noise, recipes
from lowerbound.coding.augmentations import with_holes
from lowerbound.nn.latents.codebooks import KINDS
from lowerbound.nn.model import LatentModel
from lowerbound.recipes.latent_parts import PRIORS


@dataclass(frozen=True)
class Sample:
    """A recipe with arguments, and data that it can be trained on.

    Args:
        recipe: one of `recipes.RECIPES`.
        arguments: of the recipe.
        data: n -> n rows and their context.
        highest: what a cell of the data can be at most.
    """

    recipe: str
    arguments: Mapping[str, Any]
    data: Callable[[int], tuple[Tensor, Tensor | None]]
    highest: float = 1e4


def real_rows(n: int) -> tuple[Tensor, None]:
    return torch.randn(n, 4, generator=noise.generator("real rows")), None


def bit_rows(n: int) -> tuple[Tensor, None]:
    return torch.randint(2, (n, 4), generator=noise.generator("bit rows")).float(), None


def table_rows(n: int) -> tuple[Tensor, None]:
    source = noise.generator("table rows")
    columns = [
        torch.randn(n, generator=source)
        if kind == "real"
        else torch.randint(size if size > 1 else 9, (n,), generator=source).float()
        for kind, size in zip(TABLE_FAMILIES, TABLE_SIZES, strict=True)
    ]
    return torch.stack(columns, 1), None


def count_rows(n: int) -> tuple[Tensor, Tensor]:
    x = torch.randint(0, 9, (n, 6), generator=noise.generator("count rows")).float()
    return x, x.sum(1, keepdim=True).log1p()


def batch_rows(n: int) -> tuple[Tensor, Tensor]:
    """n -> n rows of counts with a batch of two levels and a covariate of numbers."""
    x, total = count_rows(n)
    source = noise.generator("batch rows")
    batch = torch.eye(2)[torch.randint(2, (n,), generator=source)]
    return x, torch.cat([total, batch, torch.randn(n, 1, generator=source)], 1)


def label_rows(n: int) -> tuple[Tensor, Tensor]:
    """n -> n rows of counts with a covariate of numbers, and one of two labels or none."""
    x, context = batch_rows(n)
    labels = context[:, 1:3] * (torch.arange(n) % 3 > 0)[:, None]
    return x, torch.cat([context[:, :1], context[:, 3:], labels], 1)


SIZE = (5, 4)  # of a picture: neither side can be halved twice


def pictures(likelihood: str, channels: int = 1) -> Callable[[int], tuple[Tensor, None]]:
    """n -> n pictures of the values that a likelihood is of, (n, channels, *SIZE)."""

    def draw(n: int) -> tuple[Tensor, None]:
        source = noise.generator("pictures", likelihood)
        shape = (n, channels, *SIZE)
        if HIGHEST[likelihood] == 255:
            return torch.randint(256, shape, generator=source).float(), None
        share = torch.rand(shape, generator=source)
        return share.round() if likelihood == "bits" else share, None

    return draw


HIGHEST = {
    **dict.fromkeys(["bits", "continuous_bernoulli"], 1),
    **dict.fromkeys(["gaussian", "shared", "optimal", "element"], 1),
    **dict.fromkeys(["logistic", "logistic_mixture", "softmax"], 255),
}


def _vector(recipe: str, rows: Callable = real_rows, **arguments: Any) -> Sample:
    small = {"features": 4, "latent": 2, "hidden": [8], "missing": True}
    return Sample(recipe, {**small, **arguments}, rows, 1 if rows is bit_rows else 1e4)


def _ladder(**arguments: Any) -> Sample:
    small = {"features": 4, "latents": [3, 2], "hidden": [8, 7], "missing": True}
    return Sample("ladder", {**small, **arguments}, real_rows)


def _table(likelihood: str) -> Sample:
    columns = {"families": TABLE_FAMILIES, "sizes": TABLE_SIZES, "likelihood": likelihood}
    return Sample("table", {**columns, "latent": 2, "hidden": [8], "gaps": 0.0}, table_rows)


def _counts(likelihood: str, rows: Callable = count_rows, **arguments: Any) -> Sample:
    small = {"features": 6, "latent": 2, "hidden": [8], "likelihood": likelihood}
    return Sample("counts", {**small, **arguments}, rows)


def _picture(recipe: str, likelihood: str, colours: int, arguments: dict[str, Any]) -> Sample:
    return Sample(
        recipe,
        {"shape": [colours, *SIZE], "likelihood": likelihood, **arguments},
        pictures(likelihood, colours),
        HIGHEST[likelihood],
    )


def _conv(likelihood: str, colours: int = 1, **arguments: Any) -> Sample:
    return _picture("conv", likelihood, colours, {"latent": 2, "channels": [4], **arguments})


def _nvae(likelihood: str = "bits", colours: int = 1, **arguments: Any) -> Sample:
    small = {"groups": [1, 1], "channels": 4, "latent_channels": 2, "blocks": 0}
    return _picture("nvae", likelihood, colours, {**small, **arguments})


def _conv_ladder(posterior: str, **arguments: Any) -> Sample:
    small = {"groups": [1, 1], "channels": 4, "latent_channels": 2, "posterior": posterior}
    return _picture("conv_ladder", "bits", 1, {**small, **arguments})


def _codes(recipe: str, likelihood: str = "shared", colours: int = 1, **arguments: Any) -> Sample:
    small = {"codes": 8, "dim": 3, "channels": 4, "blocks": 1, "halvings": 1}
    priors = {"prior_channels": 8, "prior_layers": 2}
    return _picture(recipe, likelihood, colours, {**small, **priors, **arguments})


def pairs(wanted: str, given: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """n -> n pictures, (n, 1, 16, 16), and what is given of them, (n, 1 or 2, given, given)."""

    def draw(n: int) -> tuple[Tensor, Tensor]:
        source = noise.generator("pairs", wanted)
        x = torch.rand(n, 1, 16, 16, generator=source)
        y = F.interpolate(x, (given, given)) + 0.1 * torch.rand(n, 1, 1, 1, generator=source)
        if wanted == "classes":
            return x.round(), y
        if wanted != "holes":
            return x, y
        hole = torch.rand(n, 1, 16, 16, generator=source) < 0.3
        return tuple(with_holes(x, hole))

    return draw


def _restorer(recipe: str, wanted: str = "", given: int = 16, **arguments: Any) -> Sample:
    small = {"channels": 1, "width": 4, "depth": 1, "levels": 2, "latent": 2}
    return Sample(recipe, {**small, **arguments}, pairs(wanted, given), 1)


def sized(n: int) -> tuple[Tensor, Tensor]:
    """n -> n pictures, (n, 1, 8, 8), and a context that tells the size of their latents."""
    x = torch.rand(n, 1, 8, 8, generator=noise.generator("sized"))
    return x, x.new_zeros(n, 0, 2, 2)


def _autoencoder(likelihood: str) -> Sample:
    small = {"channels": 1, "downscale": 4, "width": 4, "latent": 2}
    return Sample("autoencoder", {**small, "likelihood": likelihood}, sized, 1)


COLOURS = "conv logistic_mixture of colours"
RECIPES = {
    "gaussian": _vector("gaussian"),
    "beta": _vector("beta"),
    **{
        f"sigma {s}": _vector("sigma", likelihood=s)
        for s in ("optimal", "shared", "feature", "element", "student", "laplace")
    },
    **{f"table {s}": _table(s) for s in ("gaussian", "student", "laplace")},
    **{f"counts {s}": _counts(s) for s in ("nb", "zinb", "poisson")},
    "counts of batches": _counts("nb", batch_rows, batches=3),
    "counts with labels": _counts("nb", label_rows, batches=1, labels=2),
    "counts learned library": _counts("nb", batch_rows, batches=3, library="learned"),
    "counts with covariates": _counts("zinb", batch_rows, batches=3, conditional_encoder=True),
    **{
        f"iaf {s}": _vector("iaf", flows=2, flow_hidden=[8], kind=s)
        for s in ("iaf", "spline", "planar")
    },
    "iaf of bits": _vector("iaf", bit_rows, flows=1, flow_hidden=[8], likelihood="bernoulli"),
    "ladder": _ladder(),
    "ladder of normalised heads": _ladder(batch_norm_heads=True),
    "ladder without batch norm": _ladder(batch_norm=False),
    "ladder of plain posteriors": _ladder(batch_norm=False, posterior="plain"),
    **{f"binary {s}": _vector("binary", bit_rows, layers=s) for s in ("silu", "relu", "tanh")},
    "binary gated": _vector("binary", bit_rows, layers="gated"),
    **{
        f"binary {s} prior": _vector("binary", bit_rows, prior=s, pseudo_inputs=3)
        for s in PRIORS
        if s != "standard"
    },
    **{f"conv {s}": _conv(s, missing=True) for s in HIGHEST},
    COLOURS: _conv("logistic_mixture", 3, components=2),
    "conv flows": _conv("bits", flows=1, flow_hidden=[8]),
    **{f"conv_ladder {s}": _conv_ladder(s) for s in ("precision", "residual", "informed")},
    "halved twice": _conv_ladder("precision", groups=[1], blocks=2),  # one level, so no tower
    "nvae": _nvae(),
    "nvae with gaps": _nvae("logistic", missing=True),
    "nvae flows": _nvae(flows=1),
    "nvae absolute": _nvae(residual=False),
    "nvae weight norm": _nvae(weight_normalised=True),
    **{f"vqvae {kind}": _codes("vqvae", codebook=kind, prior="uniform") for kind in KINDS},
    "vqvae": _codes("vqvae", "logistic", missing=True),
    "denoise optimal": _restorer("denoise"),
    "denoise element": _restorer("denoise", likelihood="element"),
    "upscale": _restorer("upscale", scale=2, given=8, likelihood="shared"),
    "inpaint": _restorer("inpaint", "holes", likelihood="shared"),
    "segment": _restorer("segment", "classes", classes=2),
    "autoencoder": _autoencoder("shared"),
    "autoencoder optimal": _autoencoder("optimal"),
    "vqvae2": _codes("vqvae2", "bits"),
    "vqvae2 of colours": _codes("vqvae2", "logistic_mixture", 3, levels=3, prior="uniform"),
}
TOWERS = {name for name in RECIPES if name.startswith(("nvae", "conv_ladder"))}
# Their training loss looks at the batch as a whole.
QUANTISED = {name for name in RECIPES if name.startswith("vqvae")}
# Moving averages of codebooks follow every training batch.
FOLLOWING = {n for n in QUANTISED if n not in ("vqvae gradient", "vqvae simvq", "vqvae fsq")}
RESTORING = {
    n for n, s in RECIPES.items() if s.recipe in ("denoise", "upscale", "inpaint", "segment")
}
WHOLE_BATCH = {"sigma optimal", "conv optimal", "denoise optimal", "autoencoder optimal"}
WHOLE_BATCH |= {"ladder", "halved twice"}
WHOLE_BATCH |= {"ladder of normalised heads", *TOWERS, *FOLLOWING}
# A posterior depends on an earlier draw.
HIERARCHIES_OF_CODES = {name for name in RECIPES if name.startswith("vqvae2")}
CHAINED = {
    "ladder",
    "ladder of normalised heads",
    "ladder without batch norm",
    *TOWERS,
    *HIERARCHIES_OF_CODES,
    *RESTORING,
}
# The KL has no closed form: of a flow, or against a prior that is none of one normal.
SAMPLED = {
    *(name for name in RECIPES if name.startswith("iaf")),
    *(f"binary {s} prior" for s in PRIORS),
    "conv flows",
    "nvae flows",
    COLOURS,
}
GAPLESS = {COLOURS, "vqvae2 of colours"}  # its channels see each other


def recipe(name: str) -> LatentModel:
    """A recipe's model with weights that depend on its name alone."""
    sample = RECIPES[name]
    with noise.isolated("recipe", name):
        return recipes.find(sample.recipe).make(dict(sample.arguments))
