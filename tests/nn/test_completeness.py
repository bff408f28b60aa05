"""Every part that the library has is in the dictionaries of the contract tests."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from types import ModuleType

import pytest
from torch import nn

from core_parts import (
    CASES,
    CODE_PRIORS,
    CODEBOOKS,
    FLOWS,
    POSTERIORS,
    PRIORS,
    quantise,
    table_family,
)
from lowerbound import noise, recipes
from lowerbound.nn.distributions import families, pixels, table_rows
from lowerbound.nn.distributions.families import Family
from lowerbound.nn.latents import code_priors, codebooks, flows, mixture_priors, posteriors, priors
from lowerbound.nn.networks import pixelcnn, residual_cells
from lowerbound.nn.networks.mlp import NONLINEARITIES
from lowerbound.recipes import images, latent_parts, tables, vectors
from recipe_parts import RECIPES, recipe


def parts_of(modules: Iterable[nn.Module]) -> set[type]:
    """The classes of some modules and of all that is inside."""
    return {type(part) for module in modules for part in module.modules()}


def defined(module: ModuleType, kind: type = nn.Module) -> set[type]:
    """The public subclasses of `kind` that a file defines."""
    return {
        found
        for name, found in inspect.getmembers(module, inspect.isclass)
        if found.__module__ == module.__name__ and issubclass(found, kind) and name[0] != "_"
    }


def contracted() -> set[type]:
    """What the dictionaries of parts hold, with what it is made of."""
    made = [case.make() for case in CASES.values()]
    made += [table_family()]
    made += [make(3, 4, 2) for make in POSTERIORS.values()]
    made += [make() for make in PRIORS.values()]
    made += [make(2, 4) for make in FLOWS.values()]
    made += [quantise(kind) for kind in CODEBOOKS]
    made += [make(2, codebooks.KINDS["ema"](8, 3), (2, 2)) for make in CODE_PRIORS.values()]
    return parts_of(made)


# Beside the parts there is what makes or serves them, which is no part itself.
BESIDE = {Family, families.Conditional, mixture_priors.KeyRecorder, codebooks.Codebook}


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (posteriors, nn.Module),
        (priors, nn.Module),
        (mixture_priors, nn.Module),
        (flows, nn.Module),
        (codebooks, nn.Module),
        (code_priors, nn.Module),
        (pixelcnn, nn.Module),
        (families, Family),
        (pixels, Family),
        (table_rows, Family),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_no_part_is_without_a_contract(module, kind):
    with noise.isolated("completeness"):
        assert defined(module, kind) - contracted() <= BESIDE


def test_no_recipe_is_without_a_contract():
    assert {sample.recipe for sample in RECIPES.values()} == set(recipes.RECIPES)
    parts = parts_of(recipe(name) for name in RECIPES)
    with noise.isolated("completeness"):
        assert defined(residual_cells) - {residual_cells.CheckpointedSequential} <= parts


# Every value of an argument that names a part, and the recipes of which one at least has each.
CHOICES = {
    "prior": (set(latent_parts.PRIORS) - {"standard"}, {"gaussian", "sigma", "binary"}),
    "layers": (set(NONLINEARITIES), {"binary"}),
    "kind": ({"iaf", "spline", "planar"}, {"iaf"}),
    "codebook": (set(codebooks.KINDS), {"vqvae"}),
    "posterior": ({"precision", "residual", "informed"}, {"conv_ladder"}),
}
LIKELIHOODS = {
    "conv": set(images.LIKELIHOODS),
    "sigma": set(vectors._SIGMAS),
    "table": set(tables._REALS),
}


@pytest.mark.parametrize("argument", CHOICES)
def test_no_choice_of_a_part_is_without_a_contract(argument):
    values, of = CHOICES[argument]
    seen = {s.arguments.get(argument) for s in RECIPES.values() if s.recipe in of}
    assert values <= seen


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_no_likelihood_of_a_recipe_is_without_a_contract(name):
    seen = {s.arguments.get("likelihood") for s in RECIPES.values() if s.recipe == name}
    assert LIKELIHOODS[name] <= seen
