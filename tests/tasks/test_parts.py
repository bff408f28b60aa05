"""Rows in parts that the processors work on side by side."""

import threading

import pytest
import torch

from lowerbound import noise, recipes
from lowerbound.coding.rows import Dense
from lowerbound.errors import UsageError
from lowerbound.tasks import draws, metrics
from lowerbound.tasks.parts import TILES, by_parts, threads

CPU = torch.device("cpu")


@pytest.fixture
def three():
    """Let torch have three threads in this one."""
    with threads(3):
        yield


def rows(n):
    x = torch.randn(n, 4, generator=noise.generator("parts", n))
    x[::7, 1] = torch.nan
    return Dense(x)


def test_results_are_in_order_and_each_row_is_in_one_part(three):
    seen = []

    def work(part, first):
        seen.append((first, len(part), threading.get_ident(), torch.get_num_threads()))
        return part.take(torch.arange(len(part))).x[:, :1] + first

    n, tile = 40 * TILES + 3, 4
    found = by_parts(rows(n), tile, work, CPU)
    parts = sorted(seen)
    assert torch.equal(found[:4, 0], rows(n).x[:4, 0])
    assert [first for first, *_ in parts] == list(range(0, n, tile * TILES))
    assert sum(count for _, count, *_ in parts) == n
    assert {count for *_, count in parts} == {1}
    firsts = torch.cat([torch.full((count,), float(first)) for first, count, *_ in parts])
    torch.testing.assert_close(found[:, 0] - firsts, rows(n).x[:, 0], rtol=0, atol=1e-4)


def test_the_caller_keeps_its_threads(three):
    by_parts(rows(100), 4, lambda part, first: torch.zeros(len(part)), CPU)
    assert torch.get_num_threads() == 3


def test_one_tile_or_one_thread_is_one_part():
    calls = []

    def work(part, first):
        calls.append((len(part), threading.get_ident()))
        return torch.zeros(len(part))

    with threads(3):
        by_parts(rows(4), 4, work, CPU)
    with threads(1):
        by_parts(rows(100), 4, work, CPU)
    assert calls == [(4, threading.get_ident()), (100, threading.get_ident())]


def test_an_error_is_raised_in_the_caller(three):
    def work(part, first):
        if first:
            raise UsageError("E240", "of a part", fix="none")
        return torch.zeros(len(part))

    with pytest.raises(UsageError, match="of a part"):
        by_parts(rows(200), 4, work, CPU)


@pytest.mark.parametrize(
    "task",
    [
        lambda model, x: metrics.log_likelihood(model, x, 8, groups=[[0], [1], [2], [3]]).log_p,
        lambda model, x: metrics.log_likelihood(model, x, 8, start=5).log_p,
        lambda model, x: metrics.elbo(model, x, start=3).elbo,
        draws.embed,
        draws.reconstruct,
        lambda model, x: draws.impute(model, x, groups=[[i] for i in range(4)], samples=16),
    ],
    ids=["scores", "by number", "elbo", "embed", "reconstruct", "impute"],
)
def test_results_are_those_of_one_thread_to_the_bit(task):
    with noise.isolated("parts"):
        model = recipes.gaussian(4, latent=2, hidden=(16,), missing=True).eval()
    found = []
    for count in (1, 3):
        with threads(count):
            found.append(task(model, rows(1500)))
    assert torch.equal(*found)


def test_a_model_in_training_is_left_in_training():
    model = recipes.gaussian(4, latent=2, hidden=(8,)).train()
    with threads(2):
        metrics.log_likelihood(model, rows(600), 2)
    assert all(module.training for module in model.modules())
