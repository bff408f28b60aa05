"""Rows with missing cells: imputations, their spread, scores and contributions are the model's."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from lowerbound import VAE, noise, recipes
from lowerbound.coding.rows import Batch, Dense
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.nn.objectives.hidden_cells import HiddenCells
from lowerbound.nn.trace import Trace, from_prior
from lowerbound.tasks import draws, metrics, proposals

PRIOR_DRAWS = 200_000
NIGHTLY = pytest.param(("table", 0.1), marks=pytest.mark.nightly)  # between the others


def pairs(n, seed, share=0.0):
    """Rows of y = 0.8 x + 0.6 e, with a share of the cells missing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    cells = np.stack([x, 0.8 * x + 0.6 * rng.normal(size=n)], 1)
    return np.where(rng.random((n, 2)) < share, np.nan, cells)


def table(cells):
    return pa.table({n: pa.array(cells[:, i], from_pandas=True) for i, n in enumerate("xy")})


def exact(model, x):
    """Log p(x) of rows by many draws from the prior: no posterior takes part."""
    source = noise.generator("exact")
    with torch.no_grad():
        px = model(None, Trace(from_prior(source), PRIOR_DRAWS))
        each = [px.log_prob(row.expand(PRIOR_DRAWS, -1)).double().logsumexp(0) for row in x]
    return torch.stack(each).numpy() - np.log(PRIOR_DRAWS)


def fit(recipe, share):
    vae = VAE(recipe=recipe, preset="fast", device="cpu", random_state=0)
    return vae.fit(table(pairs(4000, 0, share))).trained_


@pytest.fixture(scope="module", params=[("table", 0.0), NIGHTLY, ("sigma", 0.0)], ids=str)
def trained(request):
    return fit(*request.param)


def without(rows, column):
    gone = rows.copy()
    gone[:, column] = np.nan
    return gone


def test_imputations_have_the_mean_and_the_spread_of_the_source(trained):
    rows = pairs(1000, 1)
    drawn = trained.impute(table(without(rows, 1)), draws=200)
    drawn = np.reshape(np.asarray(drawn["y"]), (200, -1))
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    assert 0.87 <= np.mean((rows[:, 1] >= low) & (rows[:, 1] <= high)) <= 0.93
    mean = trained.impute(table(without(rows, 1)))["y"].to_numpy()
    assert abs(np.polyfit(rows[:, 0], mean, 1)[0] / 0.8 - 1) < 0.05


def test_scores_and_contributions_are_those_of_the_model(trained):
    rows = pairs(60, 2)
    coded = trained.encode(table(rows))[1].rows
    x = coded.take(torch.arange(60)).x
    whole = exact(trained.model, x)
    for column in (0, 1):
        gone = x.clone()
        gone[:, column] = torch.nan
        truth = exact(trained.model, gone)
        found = metrics.log_likelihood(trained.model, Dense(gone), 32, groups=()).log_p.numpy()
        assert abs(np.mean(found - truth)) < 0.05
        assert abs(found - truth).max() < 0.5
        nats = draws.explain(trained.model, x, [(0,), (1,)]).nats[:, column].numpy()
        assert np.abs(nats - (truth - whole)).mean() < 0.1
        assert np.corrcoef(nats, truth - whole)[0, 1] > 0.97


def far_off():
    """A model that is not trained, and whose posterior is two units beside the right one."""
    with noise.isolated("weights"):
        model = recipes.sigma(2, 2, (16,), "shared").eval()
    with torch.no_grad():
        model.levels[0].posterior.conditional.net.bias += torch.tensor([2.0, 2.0, 0.0, 0.0])
    return model


def test_a_poor_proposal_is_refined():
    model, rows = far_off(), pairs(400, 3)
    x = torch.from_numpy(without(rows, 1)).float()[:40]
    found = metrics.log_likelihood(model, Dense(x), 64, groups=())
    np.testing.assert_allclose(found.log_p.numpy(), exact(model, x), atol=0.15)
    usual = metrics.log_likelihood(model, Dense(x), 64).log_p.numpy()
    assert abs(usual - exact(model, x)).mean() > 0.5
    alone = [metrics.log_likelihood(model, Dense(row[None]), 64, groups=()).log_p for row in x[:5]]
    assert torch.equal(torch.cat(alone), found.log_p[:5])  # whatever other rows there are


def test_explanations_refine_the_poor_proposals_of_all_columns_together(monkeypatch):
    model, x, groups = far_off(), torch.from_numpy(pairs(30, 4)).float(), [(0,), (1,)]
    fits, refined = [], proposals.refined
    monkeypatch.setattr(proposals, "refined", lambda *args: fits.append(1) or refined(*args))
    nats, expected = draws.explain(model, x, groups)
    assert len(fits) == 2  # to tiles of rows: for the scores, and for the expected values
    alone = draws.explain(model, x[:1], groups)  # whatever other rows there are
    assert torch.equal(alone.nats[0], nats[0])
    assert torch.equal(alone.expected[0], expected[0])
    monkeypatch.setattr(draws, "EXPLAINED_CELLS", 1)  # every column on its own
    apart = draws.explain(model, x, groups)
    assert torch.equal(apart.nats, nats)
    assert torch.equal(apart.expected, expected)


def test_the_refined_proposal_is_the_posterior_of_a_linear_model():
    with noise.isolated("weights"):
        model = recipes.gaussian(3, latent=2, hidden=[4]).eval()
    weight = torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.8, -0.7]])
    level, likelihood = model.levels[0], model.likelihood
    level.advance = Second()
    likelihood.net = torch.nn.Linear(2, 3)
    with torch.no_grad():
        likelihood.net.weight.copy_(weight)
        likelihood.net.bias.zero_()
    x = torch.tensor([[1.0, torch.nan, -0.5], [0.3, 2.0, torch.nan]])
    fitted = proposals.refined(model, Batch(x))
    for row, seen in enumerate(([0, 2], [0, 1])):
        w = weight[seen]
        precision = torch.eye(2) + w.T @ w
        mean = torch.linalg.solve(precision, w.T @ x[row, seen])
        loc, scale = fitted["z"]
        torch.testing.assert_close(loc[row], mean, atol=0.15, rtol=0)
        narrow = precision.diagonal().rsqrt()  # of the best normal without correlations
        torch.testing.assert_close(scale[row] / proposals.WIDER, narrow, atol=0.15, rtol=0.2)


class Second(torch.nn.Module):
    """The update (h, z) -> z."""

    def forward(self, h, z):
        return z


def test_hidden_cells_teach_the_posterior_alone():
    with noise.isolated("weights"):
        model = recipes.table(["real", "categorical"], [1, 3], latent=2, hidden=[8], gaps=0.0)
    x = torch.tensor([[0.5, 2.0], [-1.0, 0.0], [0.3, 1.0], [1.0, 2.0]])
    objective = HiddenCells(Elbo(model), [(0,), (1,)])
    plain = Elbo(model)(x, 0, noise.Stream(noise.generator("step")))
    both = objective(x, 0, noise.Stream(noise.generator("step")))
    assert torch.equal(both.terms["elbo"], plain.terms["elbo"])
    names, weights = zip(*model.named_parameters(), strict=True)
    one, two = (torch.autograd.grad(loss.value, weights) for loss in (plain, both))
    changed = {n for n, a, b in zip(names, one, two, strict=True) if not torch.equal(a, b)}
    assert changed
    assert all(n.startswith("encoder") or ".posterior." in n for n in changed)
    objective.eval()
    assert "hidden" not in objective(x, 0, noise.Stream(noise.generator("step"))).terms


def test_any_number_of_cells_is_hidden_equally_often():
    model = recipes.gaussian(3, missing=True)
    hide = HiddenCells(Elbo(model), [(0,), (1, 2)]).hide
    gone = hide(torch.zeros(30_000, 3), noise.Stream(noise.generator("hide"))).isnan()
    assert torch.equal(gone[:, 1], gone[:, 2])  # of one group
    both = gone[:, :2].sum(1).bincount() / len(gone)
    torch.testing.assert_close(both, torch.full((3,), 1 / 3), atol=0.02, rtol=0)
