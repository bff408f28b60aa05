"""Threads: one model used by several, fits side by side, and what a fit sets for itself alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier, Thread

import numpy as np
import pytest
import torch
from torch import nn

from lowerbound import VAE, noise, recipes
from lowerbound.coding.rows import Dense
from lowerbound.nn.networks.mlp import ValueDropout
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.tasks import draws, latent_use, metrics, parts
from lowerbound.training.engine import loop
from lowerbound.training.engine.engine import Engine
from lowerbound.training.engine.loop import draws_globally
from lowerbound.training.engine.settings import Budget, Optimiser

THREADS = 4


@pytest.fixture(autouse=True)
def often():
    """Switch between threads far more often than usual, so that what they share shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def untouched():
    """Check that torch's global random state is the same afterwards."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


def table(n: int = 600) -> np.ndarray:
    x = np.random.default_rng(7).normal(size=(n, 4))
    x[::3, 1] = np.nan
    return x


def estimator(**settings: object) -> VAE:
    return VAE(**{"preset": "fast", "max_epochs": 1, "device": "cpu", **settings})


def together(calls: Iterable[Callable[[], object]]) -> list[object]:
    with ThreadPoolExecutor(THREADS) as pool:
        return [made.result() for made in [pool.submit(call) for call in calls]]


def same(one: object, other: object) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True)


@pytest.fixture(scope="module")
def fitted() -> VAE:
    return estimator().fit(table())


def test_draws_of_a_seed_are_the_same_in_threads(fitted, untouched):
    alone = [fitted.sample(1000, random_state=seed) for seed in range(4)]
    found = together(partial(fitted.sample, 1000, random_state=i % 4) for i in range(16))
    assert all(same(drawn, alone[i % 4]) for i, drawn in enumerate(found))
    assert not same(alone[0], alone[1])


def test_any_mix_of_uses_of_one_model_is_the_same_in_threads(fitted, untouched):
    x, model = table(200), fitted.trained_.model
    rows = Dense(torch.from_numpy(x).float())
    uses = [
        partial(fitted.anomaly_score, x),
        partial(fitted.transform, x),
        partial(fitted.impute, x),
        partial(fitted.sample, 300, random_state=5),
        partial(lambda: fitted.score_table(x, explain=2)["top1_nats"]),
        partial(draws.impute_draws, model, rows, 2, seed=3),
        partial(draws.reconstruct, model, rows),
        lambda: metrics.elbo(model, rows).elbo,
        lambda: latent_use.latent_use(model, rows).rate,
    ]
    alone = [use() for use in uses]
    found = together(uses * 4)
    assert all(same(made, alone[i % len(uses)]) for i, made in enumerate(found))


@pytest.mark.parametrize("settings", [{}, {"recipe": "vqvae"}], ids=str)
def test_fits_with_one_seed_are_the_same_in_threads(settings, untouched):
    x = table(300)
    if settings:  # k-means, and draws of a PixelCNN
        x = np.random.default_rng(1).integers(0, 256, (40, 8, 8), np.uint8)
    fit = partial(lambda: estimator(random_state=1, **settings).fit(x).anomaly_score(x))
    alone = fit()
    assert all(same(score, alone) for score in together([fit] * 3))


class Noisy(nn.Module):
    """A user's layer that draws from the global generator while training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * torch.randn_like(x) if self.training else x


LAYERS = {
    "hidden": lambda: ValueDropout(0.3),
    "dropout": lambda: nn.Dropout(0.3),
    "own": Noisy,
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_draw_do_so_from_the_generator_of_their_fit(name, untouched):
    x = torch.randn(200, 3, generator=noise.generator("layers"))

    def fit(hide: bool = True) -> torch.Tensor:
        with noise.isolated("weights"):
            model = recipes.gaussian(3, 2, (8,), missing=True)
        if hide:
            encoder = model.get_submodule("encoder")
            encoder.net = nn.Sequential(LAYERS[name](), encoder.get_submodule("net"))
            assert draws_globally(model) == (name != "hidden")
        loop.fit(
            Elbo(model),
            Dense(x[:150]),
            Dense(x[150:]),
            budget=Budget(epochs=2),
            optimiser=Optimiser(batch_size=50),
            engine=Engine(),
        )
        return draws.embed(model, Dense(x))

    alone = fit()
    assert all(torch.equal(z, alone) for z in together([fit] * 4))
    assert not torch.equal(fit(hide=False), alone)


def test_a_number_of_threads_is_set_for_the_calling_thread_alone():
    before, inside = torch.get_num_threads(), Barrier(2, timeout=60)

    def other() -> list[int]:
        found = [torch.get_num_threads()]
        inside.wait()  # the number is set
        found.append(torch.get_num_threads())
        inside.wait()
        return found

    with ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(1) as later:
        waiting = pool.submit(other)
        with parts.threads(before + 1):
            inside.wait()
            assert torch.get_num_threads() == before + 1
            assert later.submit(torch.get_num_threads).result() == before
            inside.wait()
        assert waiting.result() == [before, before]
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), parts.threads(before + 1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_threads_that_begin_while_a_number_is_set_have_the_default():
    before, found = torch.get_num_threads(), []
    new = [Thread(target=lambda: found.append(torch.get_num_threads())) for _ in range(300)]

    def begin() -> None:
        for thread in new:
            thread.start()

    beginning = Thread(target=begin)
    beginning.start()
    while beginning.is_alive():
        with parts.threads(before + 1):
            assert torch.get_num_threads() == before + 1
    for thread in new:
        thread.join()
    assert found == [before] * 300


def test_fits_with_other_numbers_of_threads_do_not_change_sums_in_this_one():
    # Sums over more than 32,768 numbers depend in their last bits on the number of threads.
    before = torch.get_num_threads()
    x = torch.randn(100, 100_000, generator=noise.generator("sums"))

    def sums() -> torch.Tensor:
        return torch.stack([row.sum() for row in x])

    def switching() -> None:
        for _ in range(20):
            with parts.threads(before + 1):
                x[0].sum()

    alone = sums()
    with parts.threads(before + 1):
        assert not torch.equal(sums(), alone)
    found = together([switching, sums, switching, sums, sums])
    assert all(torch.equal(made, alone) for made in (found[1], found[3], found[4]))
