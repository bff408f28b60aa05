"""What the tests of the core share: constructors by name, and models with known answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from lowerbound import noise
from lowerbound.nn.distributions import families as fam
from lowerbound.nn.distributions import pixels
from lowerbound.nn.distributions.base import log_prob_cells, normal
from lowerbound.nn.distributions.level_trees import TreeCategories
from lowerbound.nn.distributions.table_rows import LibraryCounts, Table, WithMissing
from lowerbound.nn.latents import code_priors, codebooks, flows, mixture_priors, priors
from lowerbound.nn.latents.posteriors import Flow, Informed, Plain, Precision, Quantise, Residual
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.mlp import MLP, Concat, Empty, Single
from lowerbound.nn.networks.pixelcnn import PixelCNN

LIBRARY = 3.0  # log of the total count that library families are given


@dataclass(frozen=True)
class Case:
    """A family, how many columns it is tried on, and where its values live."""

    make: Callable[[], fam.Family]
    columns: int
    support: str
    codes: int = 0
    library: bool = False


def _optimal() -> fam.Family:
    family = fam.OptimalSigma()
    family.variance.fill_(0.6)
    return family.eval()


PLAIN = {
    "fixed sigma": Case(lambda: fam.FixedSigma(0.7), 3, "real"),
    "shared sigma": Case(fam.SharedSigma, 3, "real"),
    "feature sigma": Case(lambda: fam.FeatureSigma(3), 3, "real"),
    "optimal sigma": Case(_optimal, 3, "real"),
    "gaussian": Case(fam.Gaussian, 3, "real"),
    "latent gaussian": Case(fam.LatentGaussian, 3, "real"),
    "student": Case(fam.Student, 3, "real"),
    "laplace": Case(fam.LaplaceFamily, 3, "real"),
    "bits": Case(fam.Bits, 3, "codes", codes=2),
    "categories": Case(lambda: fam.Categories([1, 3, 5, 2]), 4, "codes", codes=5),
    "tree of categories": Case(lambda: TreeCategories(7), 1, "codes", codes=7),
    "ordinals": Case(lambda: fam.Ordinals([2, 5, 3]), 3, "codes", codes=5),
    "negative binomial": Case(fam.NegativeBinomialFamily, 3, "counts"),
}
LIBRARIES = {
    f"library {member}": Case(lambda m=member: LibraryCounts(4, m), 4, "counts", library=True)
    for member in ("poisson", "nb", "zinb")
}
GAPS = {
    f"{name} with gaps": Case(
        lambda c=case: WithMissing(c.make()), case.columns, case.support, case.codes
    )
    for name, case in PLAIN.items()
    if name != "optimal sigma"  # knows about gaps itself
}
PIXELS = {
    "logistics": Case(pixels.Logistics, 3, "codes", codes=256),
    "logistic mixture": Case(lambda: pixels.LogisticMixture(1, 3), 1, "codes", codes=256),
    "softmax": Case(pixels.Softmax, 2, "codes", codes=256),
    "continuous bits": Case(pixels.ContinuousBits, 3, "unit"),
}
CASES = {**PLAIN, **LIBRARIES, **PIXELS}
CASES |= {name: GAPS[name] for name in ("gaussian with gaps", "categories with gaps")}
ELEMENTWISE = ["fixed sigma", "shared sigma", "feature sigma", "gaussian", "student", "laplace"]
ELEMENTWISE += ["bits", "negative binomial", *PIXELS]

TABLE_FAMILIES = ["real", "categorical", "count", "binary", "ordinal", "real", "categorical"]
TABLE_SIZES = [1, 3, 1, 2, 4, 1, 70]


def table_family() -> Table:
    return Table(TABLE_FAMILIES, TABLE_SIZES)


def randomise(module: nn.Module, key: str, spread: float = 0.4) -> nn.Module:
    """Give every parameter a random value, in float64."""
    module.double()
    source = noise.generator(key)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(spread * torch.randn(p.shape, generator=source, dtype=torch.float64))
    return module


def draw_numbers(case: Case, family: fam.Family, rows: int, key: str) -> Tensor:
    """Random numbers for a family, float64, moderate enough for a quadrature."""
    source = noise.generator("numbers", key)
    width = family.numbers(case.columns)
    numbers = 0.5 * torch.randn(rows, width, generator=source, dtype=torch.float64)
    if case.library:
        numbers = torch.cat([numbers, torch.full((rows, 1), LIBRARY, dtype=torch.float64)], 1)
    return numbers


def built(name: str, rows: int = 3) -> tuple[Case, fam.Family, Tensor]:
    """A case, its family with random parameters, and random numbers for it."""
    case = CASES.get(name) or GAPS[name]
    family = randomise(case.make(), name).requires_grad_(False)
    return case, family, draw_numbers(case, family, rows, name)


def support(case: Case) -> tuple[Tensor, Tensor]:
    """Points of the support and the weights that turn densities there into masses."""
    if case.support == "codes":
        x = torch.arange(case.codes, dtype=torch.float64)
        return x, torch.ones_like(x)
    if case.support == "counts":
        x = torch.arange(3000, dtype=torch.float64)
        return x, torch.ones_like(x)
    if case.support == "unit":
        x = (torch.arange(12001, dtype=torch.float64) + 0.5) / 12001
        return x, torch.full_like(x, 1 / 12001)
    t = torch.linspace(-12.0, 12.0, 12001, dtype=torch.float64)
    step = t[1] - t[0]
    return t.sinh(), t.cosh() * step


def masses(case: Case, d: Distribution, rows: int) -> tuple[Tensor, Tensor]:
    """Points x, (G,), and the mass of every cell of d there, (G, rows, columns)."""
    x, weight = support(case)
    grid = x[:, None, None].expand(-1, rows, case.columns)
    return x, log_prob_cells(d, grid).exp() * weight[:, None, None]


def encode(u: Tensor) -> Distribution:
    """A q(z | u) for priors that need an encoder: (n, 4) -> z in 2 dimensions."""
    source = noise.generator("encode")
    w = torch.randn(4, 4, generator=source, dtype=torch.float64).to(u)
    mean, log_scale = (0.5 * u @ w).chunk(2, 1)
    return normal(mean, (0.5 * log_scale.tanh()).exp())


PRIORS: dict[str, Callable[[], nn.Module]] = {
    "standard normal": lambda: priors.StandardNormal(2),
    "standard normal of maps": lambda: priors.StandardNormalMap(2),
    "learned": lambda: randomise(priors.LearnedNormal(2), "learned"),
    "mixture": lambda: randomise(priors.Mixture(3, 2), "mixture", 0.8),
    "vamp": lambda: randomise(mixture_priors.Vamp(encode, 3, [4]), "vamp", 0.8),
    "exemplar": lambda: randomise(mixture_priors.Exemplar(encode, 3, [4]), "exemplar", 0.3),
    "flow": lambda: randomise(priors.FlowPrior(2, 3, [8]), "flow", 0.2),
}


# (variables, features of the context) -> a map of latents.
FLOWS: dict[str, Callable[[int, int], nn.Module]] = {
    "autoregressive": lambda d, c: flows.Autoregressive(d, c, [12, 12]),
    "autoregressive backward": lambda d, c: flows.Autoregressive(d, c, [12], backward=True),
    "spline": lambda d, c: flows.Spline(d, c, [12]),
    "spline backward": lambda d, c: flows.Spline(d, c, [12, 12], backward=True, bins=5, bound=3.0),
    "planar": flows.Planar,
}


def _flow(kind: str) -> Callable[[int, int, int], nn.Module]:
    return lambda h, f, d: Flow(
        Plain(nn.Linear(f, 2 * d)), [FLOWS[kind](d, f), FLOWS[f"{kind}{BACK[kind]}"](d, f)]
    )


BACK = {"autoregressive": " backward", "spline": " backward", "planar": ""}
# (width of the state, features, latents) -> the rule of a posterior.
POSTERIORS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "plain": lambda h, f, d: Plain(nn.Linear(f, 2 * d)),
    "informed": lambda h, f, d: Informed(MLP([h + f, 7, 2 * d])),
    "residual": lambda h, f, d: Residual(MLP([h + f, 7, 2 * d])),
    "precision": lambda h, f, d: Precision(nn.Linear(f, 2 * d)),
    **{f"{kind} flow": _flow(kind) for kind in BACK},
    "flow on residual": lambda h, f, d: Flow(
        Residual(nn.Linear(h + f, 2 * d)), [FLOWS["autoregressive"](d, f)]
    ),
}
RELATIVE = {"residual", "precision", "flow on residual"}  # to the prior, which must be normal
DEPENDENT = RELATIVE | {"informed"}  # on an earlier draw, by way of the prior or of the state


# (codes, dimensions) -> a codebook; a lattice chooses its dimensions itself.
CODEBOOKS: dict[str, Callable[[int, int], codebooks.Codebook]] = dict(codebooks.KINDS)
# (state's channels, a codebook, the shape of its grid) -> a prior over such grids of codes.
CODE_PRIORS: dict[str, Callable[[int, codebooks.Codebook, tuple[int, int]], nn.Module]] = {
    "uniform": lambda state, book, grid: code_priors.UniformCodes(book, *grid),
    "pixelcnn": lambda state, book, grid: code_priors.PixelCodes(
        book, PixelCNN(book.size, grid, 8, 3, state)
    ),
    "pixelcnn with attention": lambda state, book, grid: code_priors.PixelCodes(
        book, PixelCNN(book.size, grid, 8, 3, state, heads=2)
    ),
}


def quantise(kind: str, state: int = 2, features: int = 3) -> Quantise:
    """A rule that quantises (B, features, H, W) to about 8 codes in about 3 dimensions."""
    book = CODEBOOKS[kind](8, 3)
    return Quantise(nn.Conv2d(state + features, book.dim, 1), book)


@dataclass(frozen=True)
class LinearGaussian:
    """x = W z + b + sigma e: a variational autoencoder whose log p(x) and p(z | x) are known.

    The columns of W are orthogonal, so that the exact posterior factorises.
    """

    features: int = 5
    latent: int = 2
    sigma: float = 0.625

    @property
    def loadings(self) -> Tensor:
        source = noise.generator("loadings")
        raw = torch.randn(self.features, self.latent, generator=source, dtype=torch.float64)
        sizes = torch.linspace(0.8, 1.6, self.latent, dtype=torch.float64)
        return torch.linalg.qr(raw).Q * sizes

    @property
    def offset(self) -> Tensor:
        return torch.linspace(-1.0, 1.0, self.features, dtype=torch.float64)

    def log_p(self, x: Tensor) -> Tensor:
        """Exact log p(x) by linear algebra, nats."""
        w, eye = self.loadings, torch.eye(self.features, dtype=torch.float64)
        return MultivariateNormal(self.offset, w @ w.T + self.sigma**2 * eye).log_prob(x)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, (n, latent), and variance, (latent,), of the exact p(z | x)."""
        w = self.loadings
        variance = 1 / (1 + w.square().sum(0) / self.sigma**2)
        return (x - self.offset) @ w / self.sigma**2 * variance, variance

    def data(self, n: int, key: str = "x") -> Tensor:
        source = noise.generator("linear", key)
        z = torch.randn(n, self.latent, generator=source, dtype=torch.float64)
        e = torch.randn(n, self.features, generator=source, dtype=torch.float64)
        return z @ self.loadings.T + self.offset + self.sigma * e

    def model(self, shift: float = 0.0, stretch: float = 1.0) -> LatentModel:
        """The model, with q(z | x) exact but for its mean `shift`ed and its scale `stretch`ed."""
        with noise.isolated("linear"):
            model = linear_model(self.features, self.latent, fam.FixedSigma(self.sigma))
        w = self.loadings
        variance = 1 / (1 + w.square().sum(0) / self.sigma**2)
        gain = (w / self.sigma**2 * variance).T
        head = model.levels[0].posterior.conditional.net
        with torch.no_grad():
            model.likelihood.net.weight.copy_(w)
            model.likelihood.net.bias.copy_(self.offset)
            head.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
            raw = variance.sqrt().log() + math.log(stretch)
            head.bias.copy_(torch.cat([shift - gain @ self.offset, raw]))
        return model


def linear_model(features: int, latent: int, family: fam.Family) -> LatentModel:
    """One linear map each way, in float64."""
    return LatentModel(
        Single(nn.Identity()),
        [
            Level(
                "z",
                priors.StandardNormal(latent),
                Plain(nn.Linear(features, 2 * latent)),
                Concat(nn.Identity()),
            )
        ],
        fam.Conditional(nn.Linear(latent, family.numbers(features)), family),
        Empty(),
    ).double()
