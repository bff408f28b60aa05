"""Uses of a trained model: scores, imputations, samples, explanations."""

import math

import numpy as np
import pytest
import torch

import zoo
from lowerbound import noise, recipes
from lowerbound.coding.rows import Batch, Dense
from lowerbound.errors import UsageError
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.nn.trace import Trace, from_prior
from lowerbound.tasks import draws, latent_use, metrics
from lowerbound.tasks.conditioning import sample_given
from lowerbound.training.engine import loop
from lowerbound.training.engine.settings import Budget, Optimiser

FAMILIES = ["real", "real", "binary", "categorical", "count"]
SIZES = [1, 1, 1, 4, 1]


def rows(n=800, seed=0):
    """A table whose columns all depend on one hidden number, with gaps."""
    g = torch.Generator().manual_seed(seed)
    t = torch.randn(n, generator=g)
    uniform = torch.rand(n, 3, generator=g)
    x = torch.stack(
        [
            t + 0.2 * torch.randn(n, generator=g),
            -t + 0.2 * torch.randn(n, generator=g),
            (uniform[:, 0] < torch.sigmoid(3 * t)).float(),
            (1 + (t > -0.7).float() + (t > 0.7).float()),
            torch.poisson(torch.exp(1.0 + t).clamp_max(50), generator=g),
        ],
        1,
    )
    gaps = torch.rand(n, 5, generator=g) < 0.1
    return x.masked_fill(gaps, torch.nan)


def untrained():
    with noise.isolated(0):
        return recipes.table(FAMILIES, SIZES, latent=3, hidden=(32,), gaps=0.1)


def learned(folder):
    """The weights of a model that knows the table."""
    m, x = untrained(), rows()
    loop.fit(
        Elbo(m),
        Dense(x[:700]),
        Dense(x[700:]),
        budget=Budget(epochs=40, patience=100),
        optimiser=Optimiser(batch_size=50, learning_rate=5e-3),
    )
    torch.save(m.state_dict(), folder / "weights.pt")


@pytest.fixture(scope="module")
def model():
    m = untrained()
    m.load_state_dict(torch.load(zoo.folder(learned) / "weights.pt"))
    return m.eval()


def test_score_is_a_function_of_the_row_and_the_model_only(model):
    x = rows(500, seed=1)
    whole = draws.score(model, Dense(x))
    order = torch.randperm(500, generator=noise.generator(0))
    assert torch.equal(draws.score(model, Dense(x[order])), whole[order])
    for size in (1, 7, 32, 129):
        assert torch.equal(draws.score(model, Dense(x[:size])), whole[:size])


@pytest.mark.parametrize("chunk", [1, 5, 32, 64])
def test_log_likelihood_does_not_depend_on_the_chunk(model, chunk):
    x = rows(64, seed=2)
    a = metrics.log_likelihood(model, Dense(x), 64, chunk=chunk).log_p
    b = metrics.log_likelihood(model, Dense(x), 64, chunk=16).log_p
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_bounds_rise_with_samples(model):
    x = Dense(rows(300, seed=3))
    bound = metrics.elbo(model, x, samples=64).elbo.mean()
    few = metrics.log_likelihood(model, x, 4).mean
    more = metrics.log_likelihood(model, x, 256).mean
    assert bound < few < more


def test_standard_error_is_that_of_repeated_estimates(model):
    batch = Batch(rows(1, seed=4))
    k = 64
    repeated = torch.stack(
        [
            metrics.log_weights(model, batch, k, first=i * k)[0].logsumexp(0) - math.log(k)
            for i in range(300)
        ]
    )
    claimed = metrics.log_likelihood(model, Dense(batch.x), k).standard_error[0]
    assert claimed == pytest.approx(repeated.std().item(), rel=0.6)


def test_ais_agrees_with_many_importance_samples(model):
    x = rows(8, seed=5)
    annealed = metrics.ais(model, Batch(x), metrics.Annealing(chains=16, temperatures=75))
    weighted = metrics.log_likelihood(model, Dense(x), 5000)
    assert annealed.mean == pytest.approx(weighted.mean, abs=0.15)


def test_zero_samples_are_refused(model):
    with pytest.raises(UsageError, match="samples must be a positive integer, got 0"):
        metrics.log_likelihood(model, Dense(rows(3)), 0)


def test_imputation_beats_the_marginal_mean_and_keeps_what_was_seen(model):
    x = rows(400, seed=6)
    x = x[~x.isnan().any(1)]
    holes = x.clone()
    holes[:, 0] = torch.nan
    filled = draws.impute(model, Dense(holes))
    assert torch.equal(filled[:, 1:], x[:, 1:])
    error = (filled[:, 0] - x[:, 0]).square().mean()
    assert error < 0.25 * x[:, 0].var()


def test_rows_without_a_cell_missing_whole_are_left_as_they_are(model):
    x = rows(64, seed=6).nan_to_num()
    x[::2, 0], x[::4, 3] = torch.nan, torch.nan
    whole = x[:, 0].isnan() & x[:, 3].isnan()
    filled = draws.impute(model, Dense(x), groups=[(0, 3), (1,), (2,)])
    torch.testing.assert_close(filled[~whole], x[~whole], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(filled[whole], draws.impute(model, Dense(x))[whole])
    assert not filled[whole].isnan().any()


def test_imputed_codes_are_codes(model):
    x = rows(200, seed=7)
    x[:, 2:4] = torch.nan
    filled = draws.impute(model, Dense(x))
    assert set(filled[:, 2].unique().tolist()) <= {0.0, 1.0}
    assert set(filled[:, 3].unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}


def test_multiple_imputations_differ_and_have_the_right_spread(model):
    x = rows(200, seed=8)
    x = x[~x.isnan().any(1)]
    holes = x.clone()
    holes[:, 0] = torch.nan
    drawn = draws.impute_draws(model, Dense(holes), 20)
    assert drawn.shape == (len(x), 20, 5)
    assert torch.equal(drawn[:, 3, 1:], x[:, 1:])
    spread = drawn[:, :, 0].std(1).mean()
    assert 0.15 < spread < 0.6  # the truth is 0.28: the noise of two columns


def test_samples_have_the_moments_and_frequencies_of_the_data(model):
    x, drawn = rows(4000, seed=9), draws.sample(model, 4000, seed=1)
    for column in (0, 1):
        assert drawn[:, column].mean() == pytest.approx(x[:, column].nanmean().item(), abs=0.15)
    for code in (1.0, 2.0, 3.0):
        true = (x[:, 3] == code).float().sum() / (~x[:, 3].isnan()).sum()
        assert (drawn[:, 3] == code).float().mean() == pytest.approx(true.item(), abs=0.06)


def test_samples_are_a_function_of_the_seed(model):
    assert torch.equal(draws.sample(model, 10, seed=3), draws.sample(model, 10, seed=3))
    assert not torch.equal(draws.sample(model, 10, seed=3), draws.sample(model, 10, seed=4))


def test_conditional_samples_obey_the_condition(model):
    given = torch.full((5,), torch.nan)
    given[3] = 3.0
    drawn = sample_given(model, given, 500)
    assert (drawn.values[:, 3] == 3.0).all()
    assert drawn.values[:, 0].mean() > 0.8  # grade 3 means a large hidden number
    assert 100 < drawn.effective_samples < 16384


def test_surprise_points_at_the_column_that_was_changed(model):
    x = rows(200, seed=10)
    x = x[~x.isnan().any(1)][:20]
    x[:, 1] = x[:, 1] + 4.0
    surprise = draws.explain(model, x, [[0], [1], [2], [3], [4]])
    assert (surprise.nats.argmax(1) == 1).float().mean() > 0.8
    assert torch.isfinite(surprise.expected).all()


def test_missing_columns_have_no_surprise(model):
    x = rows(20, seed=11)
    x[:, 2] = torch.nan
    assert (draws.explain(model, x, [[0], [1], [2], [3], [4]]).nats[:, 2] == 0).all()


def test_embedding_and_reconstruction_have_the_right_shapes(model):
    x = rows(130, seed=12)
    assert draws.embed(model, Dense(x)).shape == (130, 3)
    assert draws.reconstruct(model, Dense(x)).shape == (130, 5)
    z = draws.embed(model, Dense(x))
    assert torch.equal(draws.decode(model, z), draws.reconstruct(model, Dense(x)))


def test_temperature_narrows_the_prior(model):
    def spread(temperature):
        trace = Trace(from_prior(noise.generator(0), temperature), 2000)
        model(None, trace)
        return next(iter(trace.sites.values())).z.std().item()

    assert spread(0.5) == pytest.approx(0.5 * spread(1.0), rel=0.05)


def test_active_units_find_the_dimensions_that_matter(model):
    use = latent_use.latent_use(model, Dense(rows(500, seed=13)))
    assert 1 <= int(use.active.sum()) <= 2
    assert use.rate[use.active].min() > 5 * use.rate[~use.active].max()
    assert np.isfinite(use.activity.numpy()).all()


def test_channels_of_a_pixel_that_are_missing_add_nothing_to_what_it_costs_beyond_the_usual():
    with noise.isolated(0):
        net = recipes.conv([3, 8, 8], 2, (8,), "gaussian", missing=True)
    x = torch.rand(2, 3, 8, 8, generator=noise.generator("grey"))
    x[:, 1:] = torch.nan
    x[:, :, 0, 0] = torch.nan
    excess = draws.pixel_excess(net, Dense(x))
    assert not excess[:, 0, 0].any()
    # Of one channel, N(mu, 1): its expectation is (x - mu)^2 / 2 - 1 / 2.
    assert excess.mean() > -0.55
