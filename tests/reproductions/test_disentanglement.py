"""Measures of disentanglement on codes whose answer is known."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from lowerbound.errors import UsageError
from reproductions.disentanglement import (
    Votes,
    World,
    beta_vae,
    dci,
    factor_vae,
    mutual_information_gap,
    sap,
)

SIZES = (3, 4, 2)
FEW = Votes(train=400, test=300, batch=32, variance=500)


def perfect(factors):
    """Each factor in a code of its own, with scales and signs, and two constant codes."""
    codes = (factors - factors.mean(0)) * np.array([1.0, -2.0, 0.5])
    return np.concatenate([codes, np.zeros((len(codes), 2))], 1)


def rotated(factors):
    """Every code mixes all factors, the most even mixture there is."""
    centred = (factors - (np.array(SIZES) - 1) / 2) / np.array([0.816, 1.118, 0.5])
    turn = np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3
    even = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])
    return centred @ turn @ even


def independent(factors):
    """Codes that know nothing of the factors: the same stream whatever they are."""
    return np.random.default_rng(len(factors)).normal(size=(len(factors), 4))


def drawn(represent, n=900):
    return World(SIZES, represent).draw(n, seed=1)


@cache
def measured(represent):
    codes, factors = drawn(represent)
    return mutual_information_gap(codes, factors), dci(codes, factors, train=250, test=400)


def test_perfect_codes_score_one():
    mig, scores = measured(perfect)
    assert mig > 0.97  # the second best code shares a little by chance
    assert min(scores) > 0.99


def test_codes_that_know_nothing_score_nothing():
    mig, scores = measured(independent)
    assert mig < 0.03
    assert scores.disentanglement < 0.1
    assert scores.completeness < 0.1
    chance = np.mean([1 / size for size in SIZES])
    assert abs(scores.informativeness - chance) < 0.06


def test_a_rotation_loses_the_axes_but_not_the_information():
    mig, scores = measured(rotated)
    assert scores.informativeness > 0.97
    assert scores.disentanglement < 0.6
    assert mig < 0.5 * measured(perfect)[0]


def test_sap_is_the_gap_between_the_best_and_the_second_best_code():
    """With factors of two values, the second best of perfect codes is a guess: 1 - 1/2."""
    factors = np.random.default_rng(0).integers(2, size=(900, 3))
    sizes = {"train": 500, "test": 400}
    assert abs(sap(perfect(factors), factors, **sizes) - 0.5) < 0.08
    assert sap(independent(factors), factors, **sizes) < 0.08
    twice = np.concatenate([perfect(factors), perfect(factors)], 1)
    assert sap(twice, factors, **sizes) < 1e-9
    # A line cannot tell the middle one of three from one code: even perfect codes lose there.
    three = np.random.default_rng(0).integers(3, size=(900, 2))
    assert sap(three.astype(float), three, **sizes) < 0.5


def test_mig_is_the_hand_computed_gap():
    """One code knows half of a factor of four values, another nothing: (1 bit - 0) / 2 bits."""
    factors = np.tile(np.arange(4), 64)[:, None]
    other = np.repeat(np.arange(2), 128)
    codes = np.stack([factors[:, 0] // 2, other], 1).astype(float)
    assert mutual_information_gap(codes, factors) == pytest.approx(0.5)
    both = np.stack([factors[:, 0] // 2, factors[:, 0] // 2], 1).astype(float)
    assert mutual_information_gap(both, factors) == pytest.approx(0.0)


def test_mig_cuts_a_code_into_equal_bins_of_its_range():
    factors = np.repeat(np.arange(2), 100)[:, None]
    code = np.concatenate([np.linspace(0, 0.04, 100), np.linspace(0.06, 1, 100)])
    codes = np.stack([code, np.zeros(200)], 1)
    assert mutual_information_gap(codes, factors, bins=20) > 0.9
    assert mutual_information_gap(codes, factors, bins=2) < 0.5


def test_what_does_not_vary_is_left_out():
    codes, factors = drawn(perfect)
    still = np.concatenate([np.zeros((len(factors), 1), int), factors], 1)
    assert mutual_information_gap(codes, still) == mutual_information_gap(codes, factors)


@pytest.mark.parametrize("measure", [dci, sap])
def test_what_does_not_vary_where_it_is_learned_is_left_out(measure):
    codes, factors = drawn(perfect)
    late = (np.arange(len(factors)) >= 200).astype(int)[:, None]
    later = np.concatenate([late, factors], 1)
    known = measure(codes, factors, train=200, test=100)
    assert measure(codes, later, train=200, test=100) == known


def test_the_vote_is_won_by_perfect_codes_and_lost_by_chance():
    best = factor_vae(World(SIZES, perfect), FEW)
    assert best == (1.0, 1.0, 3)
    nothing = factor_vae(World(SIZES, independent), FEW)
    assert abs(nothing.test - 1 / 3) < 0.12
    assert nothing.active == 4
    mixed = factor_vae(World(SIZES, rotated), FEW)
    assert nothing.test < mixed.test < best.test


def test_only_codes_that_vary_are_active_and_vote():
    """In `disentanglement_lib` all codes are counted; a dead code's ratio would be 0 / 0."""
    assert factor_vae(World(SIZES, perfect), FEW).active == 3
    assert beta_vae(World(SIZES, perfect), FEW).active == 3
    dead = World(SIZES, lambda f: np.full((len(f), 6), 7.0))
    assert factor_vae(dead, FEW) == (0.0, 0.0, 0)

    def nearly(factors):
        noise = 0.01 * np.random.default_rng(0).normal(size=(len(factors), 1))
        return np.concatenate([noise, perfect(factors)], 1)

    assert factor_vae(World(SIZES, nearly), FEW) == (1.0, 1.0, 3)


def test_differences_of_pairs_tell_the_shared_factor():
    best = beta_vae(World(SIZES, perfect), FEW)
    assert best.train > 0.99
    assert best.test > 0.99
    nothing = beta_vae(World(SIZES, independent), FEW)
    assert abs(nothing.test - 1 / 3) < 0.1


def test_a_factor_of_one_value_is_never_the_fixed_one():
    world = World((1, *SIZES), lambda f: perfect(f[:, 1:]))
    assert factor_vae(world, FEW).test == 1.0


def test_numbers_are_functions_of_the_seed():
    world = World(SIZES, rotated)
    for measure in (factor_vae, beta_vae):
        assert measure(world, FEW, seed=3) == measure(world, FEW, seed=3)
        assert measure(world, FEW, seed=3) != measure(world, FEW, seed=4)
    codes, factors = world.draw(300, seed=2)
    again, same = world.draw(300, seed=2)
    assert np.array_equal(codes, again)
    assert np.array_equal(factors, same)
    assert sap(codes, factors, train=200, test=100) == sap(codes, factors, train=200, test=100)


def test_chunks_do_not_change_the_codes(monkeypatch):
    world = World(SIZES, rotated)
    factors = world.values(np.random.default_rng(0), 100)
    whole = world.codes(factors)
    monkeypatch.setattr("reproductions.disentanglement.CHUNK", 7)
    assert np.array_equal(world.codes(factors), whole)


@pytest.mark.parametrize(
    "ask",
    [
        lambda c, f: dci(c, f, train=800, test=400),
        lambda c, f: sap(c[:5], f, train=2, test=2),
        lambda c, f: mutual_information_gap(c[:, :1], f),
        lambda c, f: mutual_information_gap(c, f * 0),
        lambda c, f: beta_vae(World((1, 5), lambda v: v + 0.0), FEW),
        lambda c, f: factor_vae(World((1, 5), lambda v: v + 0.0), FEW),
    ],
)
def test_what_cannot_be_measured_is_refused(ask):
    with pytest.raises(UsageError, match="codes|latents|factor"):
        ask(*drawn(perfect))
