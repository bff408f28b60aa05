"""Noise is a function of its key, looks normal, and leaves everybody else's randomness alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch
from scipy import stats

from lowerbound import noise
from lowerbound.errors import UsageError
from lowerbound.nn.objectives.elbo import Elbo, Iwae
from recipe_parts import CHAINED, RECIPES, recipe

LIKE = torch.zeros((), dtype=torch.float64)
KEYS = noise.row_keys(torch.arange(64.0)[:, None])


def keyed(keys, samples, *shape, name="z", first=0):
    wanted = torch.Size([len(keys) * samples, *shape])
    return noise.Keyed(keys, first)(name, wanted, LIKE).view(len(keys), samples, *shape)


def test_a_row_gets_the_same_normals_in_any_batch_order_and_chunk():
    whole = keyed(KEYS, 6, 5)
    order = torch.randperm(64, generator=noise.generator("order"))
    assert torch.equal(keyed(KEYS[order], 6, 5), whole[order])
    assert torch.equal(keyed(KEYS[7:8], 6, 5), whole[7:8])
    chunks = [keyed(KEYS, count, 5, first=first) for first, count in [(0, 1), (1, 3), (4, 2)]]
    assert torch.equal(torch.cat(chunks, 1), whole)


def test_shape_and_type_are_those_that_were_asked_for():
    shape = torch.Size([128, 3, 2, 5])
    normals = noise.Keyed(KEYS)("z", shape, torch.zeros((), dtype=torch.float32))
    assert normals.shape == shape
    assert normals.dtype == torch.float32
    assert noise.Keyed(KEYS)("z", torch.Size([64, 0]), LIKE).shape == (64, 0)


def test_keyed_noise_is_standard_normal():
    x = keyed(KEYS, 800, 5).flatten()
    n = len(x)
    assert stats.kstest(x.numpy(), "norm").pvalue > 1e-3
    moments = [x.mean(), x.var() - 1, (x**3).mean(), (x**4).mean() - 3]
    for moment, variance in zip(moments, [1, 2, 15, 96], strict=True):
        assert abs(moment.item()) < 4 * (variance / n) ** 0.5
    far = (x.abs() > 4).sum().item()
    assert abs(far - n * 6.334e-5) < 4 * (n * 6.334e-5) ** 0.5


def test_rows_samples_sites_and_dimensions_are_independent():
    source = keyed(KEYS, 300, 4)
    other = keyed(KEYS, 300, 4, name="another site")
    pairs = {
        "rows": (source[:-1], source[1:]),
        "samples": (source[:, :-1], source[:, 1:]),
        "sites": (source, other),
        "dimensions": (source[..., :-1], source[..., 1:]),
        "cosine and sine": (source[..., :2], source[..., 2:]),
    }
    for what, (a, b) in pairs.items():
        # Squares too: a radius that is shared would be uncorrelated in the values themselves.
        for f, variance in [(lambda x: x, 1.0), (lambda x: x**2 - 1, 4.0)]:
            z = (f(a) * f(b)).sum() / (variance * a.numel() ** 0.5)
            assert z.abs() < 4, what
    assert len(source.flatten().unique()) == source.numel()


def test_equal_rows_have_equal_keys():
    x = torch.tensor([[0.0, torch.nan, 1.0], [-0.0, -torch.nan, 1.0], [0.0, 1.0, torch.nan]])
    keys = noise.row_keys(x)
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]
    odd = torch.tensor([0x7FC00001, -0x3FFFFF], dtype=torch.int32).view(torch.float32)
    assert odd.isnan().all()
    a, b = noise.row_keys(odd[:, None])
    assert a == b
    assert torch.equal(noise.row_keys(x.double()), keys)
    assert torch.equal(noise.row_keys(x, None), keys)


def test_keys_depend_on_every_value_its_place_and_its_part():
    x = torch.arange(6.0)[None]
    keys = [noise.row_keys(x), noise.row_keys(x.flip(1)), noise.row_keys(x[:, :3], x[:, 3:])]
    keys += [noise.row_keys(x[:, 3:], x[:, :3]), noise.row_keys(torch.cat([x, 0 * x], 1))]
    for place in range(6):
        nudged = x.clone()
        nudged[0, place] = torch.nextafter(nudged[0, place], torch.tensor(9.0))
        keys.append(noise.row_keys(nudged))
    assert len({key.item() for key in keys}) == len(keys)


def test_a_million_rows_do_not_collide():
    codes = torch.arange(1_000_000)
    grid = torch.stack([codes % 100, codes // 100 % 100, codes // 10_000], 1).float()
    assert len(noise.row_keys(grid).unique()) == 1_000_000


def test_a_seed_is_a_function_of_its_key():
    assert noise.derive("init", 3) == noise.derive("init", 3)
    seeds = {noise.derive(*key) for key in [("a", 1), ("a", 2), ("b", 1), ("a",), ("a", "1")]}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    a, b = (torch.randn(3, generator=noise.generator("a", 1)) for _ in range(2))
    assert torch.equal(a, b)


def test_a_stream_goes_on():
    stream = noise.Stream(noise.generator("stream"))
    first, second = (stream("z", torch.Size([4, 2]), LIKE) for _ in range(2))
    assert first.dtype == torch.float64
    assert not torch.equal(first, second)


def state():
    numpy_state = np.random.get_state()  # noqa: NPY002
    return [random.getstate(), *map(str, numpy_state), torch.get_rng_state().tolist()]


@noise.isolated("there")
def interrupted():
    torch.randn(3)
    raise KeyError


def test_isolation_seeds_inside_and_restores_after():
    before = state()
    queued = torch.cuda._lazy_seed_tracker.get_calls()
    with noise.isolated("here"):
        first = torch.randn(3)
    with noise.isolated("here"):
        assert torch.equal(torch.randn(3), first)
    assert torch.get_rng_state().tolist() == before[-1]
    with pytest.raises(KeyError):
        interrupted()
    assert state() == before
    # No seed is left for a device that is not in use.
    assert torch.cuda._lazy_seed_tracker.get_calls() == queued


# One call of each random function, as torch's own layers and distributions make them.
RANDOM = {
    "rand": lambda: torch.rand(3, 4),
    "randn": lambda: torch.randn(40),
    "randint": lambda: torch.randint(9, (5,)),
    "randint from": lambda: torch.randint(3, 9, (5,)),
    "randperm": lambda: torch.randperm(20),
    "bernoulli": lambda: torch.bernoulli(torch.full((50,), 0.5)),
    "poisson": lambda: torch.poisson(torch.full((50,), 3.0)),
    "multinomial": lambda: torch.multinomial(torch.ones(5), 30, replacement=True),
    "normal": lambda: torch.normal(torch.zeros(5), torch.ones(5)),
    "uniform_": lambda: torch.empty(5).uniform_(-1, 1),
    "exponential_": lambda: torch.empty(5).exponential_(),
    "dropout": lambda: torch.nn.functional.dropout(torch.ones(50)),
    "linear": lambda: torch.nn.Linear(5, 6).weight,
    "convolution": lambda: torch.nn.Conv2d(3, 4, 3).weight,
    "orthogonal": lambda: torch.nn.init.orthogonal_(torch.empty(4, 4)),
    "student": lambda: torch.distributions.StudentT(torch.full((40,), 5.0)).sample(),
    "gamma": lambda: torch.distributions.Gamma(torch.ones(40), torch.ones(40)).sample(),
}


@pytest.mark.parametrize("name", RANDOM)
def test_isolation_gives_the_numbers_of_a_seed_without_the_global_generator(name):
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(noise.derive("here"))
        expected = RANDOM[name]()
    before = state()
    with noise.isolated("here"):
        assert torch.equal(RANDOM[name](), expected)
        assert not torch.equal(RANDOM[name](), expected)
    assert state() == before


def test_a_generator_that_is_given_is_kept_and_draws_without_one_are_refused():
    with noise.isolated("here"):
        own = torch.rand(3, generator=noise.generator("own"))
        with pytest.raises(UsageError, match="draws from the global random state") as caught:
            torch.ops.aten.native_dropout(torch.ones(3), 0.5, True)
    assert torch.equal(own, torch.rand(3, generator=noise.generator("own")))
    assert caught.value.code == "E246"


def test_isolation_is_of_one_thread():
    inside, done = Event(), Event()

    def elsewhere():
        assert inside.wait(60)
        found = torch.rand(3), torch.get_rng_state()
        done.set()
        return found

    with torch.random.fork_rng([]), ThreadPoolExecutor(1) as other:
        torch.default_generator.manual_seed(5)
        expected = torch.rand(3), torch.get_rng_state()
        torch.default_generator.manual_seed(5)
        waiting = other.submit(elsewhere)
        with noise.isolated("here"):
            first = torch.rand(3)
            inside.set()
            assert done.wait(60)
            second = torch.rand(3)
        assert all(torch.equal(a, b) for a, b in zip(waiting.result(), expected, strict=True))
    with noise.isolated("here"):
        assert torch.equal(torch.rand(3), first)
        assert torch.equal(torch.rand(3), second)


@pytest.mark.parametrize("name", RECIPES)
def test_building_and_training_leave_the_global_random_state_alone(name):
    before = state()
    model = recipe(name)
    x, context = RECIPES[name].data(6)
    source = noise.Stream(noise.generator("step"))
    bounds = (
        [Elbo(model)]
        if "optimal" in name
        else [Elbo(model), Iwae(model, 3, dreg=name not in CHAINED)]
    )
    for objective in bounds:
        objective(x, 0, source, context).value.backward()
    assert state() == before


def test_a_fit_and_all_imports_leave_the_global_random_state_alone_and_some_modules_out():
    """Neither a fit nor loading a model imports what takes a second."""
    code = """
import random, sys, tempfile, numpy, torch
random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
def state():
    return random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()
before = state()
import lowerbound
rows = numpy.random.default_rng(0).normal(size=(60, 3))
columns = dict(zip("abc", rows.T)) | {"d": list("xyz") * 20}
with tempfile.TemporaryDirectory() as folder:
    lowerbound.fit(columns, preset="fast", max_epochs=1).save(folder + "/m.vae")
    lowerbound.load(folder + "/m.vae").sample(2)
assert not {"torch._dynamo", "sklearn", "scipy.stats", "scipy.optimize"} & set(sys.modules)
assert state() == before
import lowerbound.recipes, lowerbound.training.fit, lowerbound.tasks.trained, lowerbound.estimator
from lowerbound import noise, recipes
from lowerbound.nn import model, trace
from lowerbound.nn.latents import flows, posteriors, priors
assert state() == before
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
