"""Whole models: what they draw, the data they must survive, and combinations of their parts."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from core_parts import (
    CASES,
    DEPENDENT,
    LIBRARY,
    POSTERIORS,
    PRIORS,
    RELATIVE,
    TABLE_FAMILIES,
    Case,
    randomise,
)
from lowerbound import noise, recipes
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import centre, log_prob_cells, sample
from lowerbound.nn.distributions.families import Conditional, LatentGaussian
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.mlp import (
    MLP,
    Concat,
    Empty,
    FilledReader,
    MappedReader,
    Single,
    trunk,
)
from lowerbound.nn.objectives.elbo import Elbo, Iwae, StickingTheLanding
from lowerbound.nn.trace import Trace, from_posterior, from_prior
from recipe_parts import CHAINED, GAPLESS, QUANTISED, RECIPES, recipe

every_recipe = pytest.mark.parametrize("name", RECIPES)
CODES = {"categorical": 4, "binary": 2, "ordinal": 3}


def small_table(spread: float, bias: float) -> LatentModel:
    """A table of codes on one latent, with random weights of the given sizes, in float64."""
    with noise.isolated("table of codes"):
        model = recipes.table(list(CODES), list(CODES.values()), latent=1, hidden=[6])
    randomise(model, "table of codes", 0.8)
    with torch.no_grad():
        model.likelihood.net.weight.mul_(spread)
        model.likelihood.net.bias.mul_(bias)
    return model.eval()


def ancestral(model: nn.Module, n: int) -> np.ndarray:
    source = noise.generator("ancestral")
    with torch.no_grad():
        return sample(model(None, Trace(from_prior(source), n)), source).long().numpy()


def marginals(model: nn.Module) -> list[np.ndarray]:
    """p(code) of every column, by Gauss-Hermite quadrature over the one latent."""
    z, weight = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(80))
    with torch.no_grad():
        px = model.likelihood(model.levels[0].advance(torch.empty(80, 0).double(), z[:, None]))
        out = []
        for column, size in enumerate(CODES.values()):
            rows = torch.zeros(80, 3, dtype=torch.float64).repeat(size, 1, 1)
            rows[:, :, column] = torch.arange(size, dtype=torch.float64)[:, None]
            p = torch.stack([log_prob_cells(px, row)[:, column].exp() for row in rows])
            out.append(((p * weight).sum(1) / weight.sum()).numpy())
    return out


@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_ancestral_samples_have_the_frequencies_of_the_model(spread):
    """Rare codes too: cells are drawn from their likelihood, not set to its mode."""
    model, n = small_table(spread, 4.0), 20_000
    x = ancestral(model, n)
    expected = marginals(model)
    assert min(p.min() for p in expected) < 0.02
    for column, p in enumerate(expected):
        seen = np.bincount(x[:, column], minlength=len(p))
        assert stats.chisquare(seen, n * p / p.sum()).pvalue > 1e-4


def test_columns_of_a_factorised_table_are_drawn_independently():
    x = ancestral(small_table(0.0, 1.0), 20_000)
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        counts = np.zeros((x[:, a].max() + 1, x[:, b].max() + 1))
        np.add.at(counts, (x[:, a], x[:, b]), 1)
        assert stats.chi2_contingency(counts).pvalue > 1e-4
    x = ancestral(small_table(3.0, 1.0), 20_000)  # and are not where they share the latent
    counts = np.zeros((4, 2))
    np.add.at(counts, (x[:, 0], x[:, 1]), 1)
    assert stats.chi2_contingency(counts).pvalue < 1e-9


def losses(name: str, x: Tensor, context: Tensor | None) -> tuple[nn.Module, list[Tensor]]:
    """A recipe's model, and the value of a training step of either objective.

    All gradients are finite.
    """
    values, model = [], recipe(name)
    model.train()
    for objective in (Elbo(model), Iwae(model, 3, dreg=name not in CHAINED)):
        if isinstance(objective, Iwae) and "optimal" in repr(model).lower():
            continue  # its profile over sigma is no density, and Iwae says so
        model.zero_grad()
        value = objective(x, 0, noise.Keyed(noise.row_keys(x)), context).value
        value.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        values.append(value.detach())
    return model, values


def strange(kind: str, name: str) -> tuple[Tensor, Tensor | None]:
    """Data that a recipe may well be given, from its ordinary data, and their context."""
    sample = RECIPES[name]
    x, context = sample.data(6)
    if kind == "one row":
        x = x[:1]
    elif kind == "constant columns":
        x = x[:1].expand_as(x).clone()
    cells = x.flatten(1)  # a view: what is written there is in x
    if kind == "a missing column":
        cells[:, 1] = torch.nan
    elif kind == "nothing but gaps":
        cells[:] = torch.nan
        labels = sample.arguments.get("labels", 0)
        if context is not None and labels:
            context[:, -labels:] = 0.0
    elif kind == "a far outlier":
        kinds = TABLE_FAMILIES if sample.recipe == "table" else ["real"] * cells.shape[1]
        cells[0, [c for c, found in enumerate(kinds) if found == "real"]] = sample.highest
    return x, None if context is None else context[: len(x)]


@every_recipe
@pytest.mark.parametrize(
    "kind",
    ["one row", "constant columns", "a missing column", "nothing but gaps", "a far outlier"],
)
def test_a_step_on_strange_data_is_finite(name, kind):
    if name in GAPLESS and kind in ("a missing column", "nothing but gaps"):
        pytest.skip("this likelihood cannot leave a cell out")
    x, context = strange(kind, name)
    model, values = losses(name, x, context)
    assert all(value.isfinite() for value in values)
    model.eval()
    keyed = noise.Keyed(noise.row_keys(x))
    log_p = model(x, Trace(from_posterior(keyed), len(x)), context).log_prob(x)
    assert log_p.shape == (len(x),)
    assert log_p.isfinite().all()
    if kind == "nothing but gaps":
        assert (log_p.abs() < 1e-6).all()  # the quadrature of a library size rounds


@every_recipe
def test_densities_stay_in_float32_when_networks_run_in_bfloat16(name):
    model = recipe(name).eval()
    x, context = RECIPES[name].data(32)
    keyed = noise.Keyed(noise.row_keys(x))
    full = Elbo(model)(x, 0, keyed, context).value
    with torch.autocast("cpu", torch.bfloat16):
        trace = Trace(from_posterior(keyed), 32)
        log_p = model(x, trace, context).log_prob(x)
        mixed = Elbo(model)(x, 0, keyed, context).value
    assert trace.kl().dtype == log_p.dtype == mixed.dtype == torch.float32
    assert log_p.isfinite().all()
    assert abs(mixed - full) < 0.02 * abs(full)
    mixed.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@every_recipe
def test_every_feature_perturbs_the_score_through_both_ends(name):
    """Each column (or pixel) enters the encoder, and each enters the likelihood."""
    model = recipe(name).double().eval()  # one pixel of many moves a mean by little
    x, context = (None if t is None else t.double() for t in RECIPES[name].data(4))
    rows, cells = len(x), x[0].numel()
    x = x.repeat(cells, *[1] * (x.dim() - 1))  # all rows once for each of their cells
    context = None if context is None else context.repeat(cells, *[1] * (context.dim() - 1))
    moved = x.clone()
    changed = moved.view(cells, rows, cells).diagonal(0, 0, 2)
    changed.copy_(1 - changed.clamp_max(1))
    # A missing cell cannot be changed, and one near 1/2 was not.
    there = (moved - x).flatten(1).abs().nansum(1) > 0.01
    keep, other = (Trace(from_posterior(noise.Keyed(noise.row_keys(x))), len(x)) for _ in range(2))
    px = model(x, keep, context)
    model(moved, other, context)
    for site in keep.sites:
        # A code need not change with one pixel; what it is the nearest to does.
        of = (lambda q: q.near) if name in QUANTISED else centre
        before, after = (of(t.sites[site].q) for t in (keep, other))
        assert (before != after).flatten(1).any(1)[there].all()
    assert (px.log_prob(x) != px.log_prob(moved))[there].all()


@every_recipe
def test_scores_do_not_depend_on_batch_or_order(name):
    model = recipe(name).eval()
    x, context = RECIPES[name].data(9)

    def score(rows):
        part, given = x[rows], None if context is None else context[rows]
        trace = Trace(from_posterior(noise.Keyed(noise.row_keys(part))), len(part), 4)
        log_p = model(part, trace, given).log_prob(part.repeat_interleave(4, 0))
        return (log_p + trace.log_ratio()).view(-1, 4).logsumexp(1).detach()

    whole = score(list(range(9)))
    order = [4, 0, 8, 1, 7, 3, 2, 6, 5]
    torch.testing.assert_close(score(order), whole[order])
    torch.testing.assert_close(torch.cat([score([i]) for i in range(9)]), whole)


def test_building_twice_from_one_configuration_gives_the_same_model():
    arguments = {"features": 4, "latent": 2, "hidden": [8, 6, 5]}
    models = []
    for _ in range(2):
        with noise.isolated("twice"):
            models.append(recipes.find("gaussian").make(arguments))
    assert arguments["hidden"] == [8, 6, 5]
    a, b = (model.state_dict() for model in models)
    assert list(a) == list(b)
    assert all(torch.equal(a[key], b[key]) for key in a)
    maps = [m for m in models[0].modules() if isinstance(m, nn.Linear)]
    shapes = {(m.in_features, m.out_features) for m in maps}
    assert shapes == {(4, 8), (8, 6), (6, 5), (5, 4), (2, 5), (5, 6), (6, 8), (8, 4)}


def test_what_a_recipe_does_not_know_is_refused_with_the_nearest():
    for wrong, nearest in [
        (lambda: recipes.find("gausian").make({}), "gaussian"),
        (lambda: recipes.find("gaussian").make({"features": 3, "latents": 2}), "latent"),
        (lambda: recipes.sigma(3, likelihood="studnet"), "student"),
    ]:
        with pytest.raises(UsageError, match=nearest):
            wrong()


class BesideLibrary(nn.Module):
    """A net whose numbers are followed by a given log-library."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([self.net(h), h.new_full((len(h), 1), LIBRARY)], 1)


class Combination(NamedTuple):
    """One model and objective out of all that can be composed."""

    likelihood: str
    prior: str
    posterior: str
    objective: str


OBJECTIVES = {
    "elbo": Elbo,
    "elbo beta": lambda model: Elbo(model, beta=0.5),
    "elbo free bits": lambda model: Elbo(model, free_bits=0.01),
    "sticking the landing": StickingTheLanding,
    "iwae dreg": lambda model: Iwae(model, 4),
    "iwae": lambda model: Iwae(model, 4, dreg=False),
}


def combination(seed: int) -> Combination:
    pick = random.Random(seed)
    return Combination(*(pick.choice(list(d)) for d in (CASES, PRIORS, POSTERIORS, OBJECTIVES)))


def compose(case: Case, wanted: Combination, seed: int) -> LatentModel:
    """A tiny model of two levels, the first with the prior, both with the posterior if it can."""
    family = case.make()
    net: nn.Module = nn.Linear(6, family.numbers(case.columns))
    rule = "plain" if wanted.posterior in RELATIVE else wanted.posterior
    with noise.isolated("compose", seed):
        top, low = POSTERIORS[rule](0, 5, 2), POSTERIORS[wanted.posterior](6, 5, 2)
        onward = Conditional(nn.Linear(6, 4), LatentGaussian())
        levels = [
            Level("top", PRIORS[wanted.prior](), top, Concat(trunk([2, 6]))),
            Level("low", onward, low, Concat(MLP([8, 6]))),
        ]
        unit = torch.tensor(1 / max(1, case.codes - 1))  # networks see codes between 0 and 1
        reader = MappedReader(unit, 0.0, False, FilledReader(case.columns, indicators=True))
        encoder = TwoFeatures(nn.Sequential(reader, MLP([reader.width, 5])))
        model = LatentModel(
            encoder,
            levels,
            Conditional(BesideLibrary(net) if case.library else net, family),
            Empty(),
        )
    randomise(model, f"weights {seed}", 0.5)
    return model.float().train()


class TwoFeatures(Single):
    """The same features for both levels."""

    def forward(self, x: Tensor, context: Tensor | None) -> list[Tensor]:
        return super().forward(x, context) * 2


def check(seed: int) -> None:
    wanted = combination(seed)
    case = CASES[wanted.likelihood]
    model = compose(case, wanted, seed)
    source = noise.generator("data", seed)
    with torch.no_grad():
        x = sample(model.eval()(None, Trace(from_prior(source), 32)), source).float()
    x[torch.rand(x.shape, generator=noise.generator("gaps", seed)) < 0.1] = torch.nan
    if "gaps" not in wanted.likelihood and not case.library:
        x = x.nan_to_num(1.0)
    if wanted.likelihood == "categories":
        x[:, 0] = 0.0
    objective = OBJECTIVES[wanted.objective](model.train())
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    source = noise.Stream(noise.generator("noise", seed))
    if wanted.likelihood == "optimal sigma" and "iwae" in wanted.objective:
        with pytest.raises(UsageError, match="no density"):
            objective(x, 0, source)
        return
    if wanted.objective == "iwae dreg" and wanted.posterior in DEPENDENT:
        with pytest.raises(UsageError, match="earlier level"):  # the other pair that does not
            objective(x, 0, source)
        return
    loss = objective(x, 0, source)
    loss.value.backward()
    assert loss.value.isfinite(), wanted
    assert all(term.isfinite() for term in loss.terms.values()), wanted
    for name, p in model.named_parameters():
        assert p.grad is not None, (wanted, name)
        assert p.grad.isfinite().all(), (wanted, name)
        assert p.grad.any(), (wanted, name)
    optimiser.step()
    assert objective(x, 1, source).value.isfinite(), wanted


QUICK, NIGHTLY = range(12), range(12, 400)


@pytest.mark.parametrize("seed", QUICK)
def test_parts_compose(seed):
    check(seed)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", NIGHTLY)
def test_many_more_parts_compose(seed):
    check(seed)


def test_the_combinations_reach_every_part():
    """Those of `make test` are a handful; with those of `make nightly` nothing is left out."""
    every = [combination(seed) for seed in (*QUICK, *NIGHTLY)]
    assert len(QUICK) >= 8
    assert len(NIGHTLY) >= 30
    for field, known in [
        ("likelihood", CASES),
        ("prior", PRIORS),
        ("posterior", POSTERIORS),
        ("objective", OBJECTIVES),
    ]:
        assert {getattr(each, field) for each in every} == set(known)
    pairs = {(each.prior, each.posterior) for each in every}
    assert len(pairs) > 0.95 * len(PRIORS) * len(POSTERIORS)
