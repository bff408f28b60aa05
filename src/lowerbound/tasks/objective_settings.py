"""Settings of the objective: one record each, used by plans, messages, cards and help texts.

This module needs no torch. `training.objective` builds the objective that the settings describe.
A new setting is a record here, its module in `nn.objectives`, and a line in the table of builders
in `training.objective`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """A setting of the objective, given as ``fit --set NAME=VALUE``.

    Args:
        name: its name.
        default: the value that means "not used". Its type is the type of all values.
        example: a value to show in help texts.
        meaning: its explanation for help texts, starting in lower case.
        describe: returns the description of a value in use: the objective, for a setting that
            replaces the ELBO; otherwise a detail, such as "beta 2".
        acts: its effect on the ELBO, a verb in the third person.
        excludes: names of settings that have no effect together with this one.
        of_rate: whether it concerns the rate, the KL part of the bound. Such a setting has no
            effect in the first stage of a recipe of codes, where the rate is a constant.
        reservation: returns, for a value in use, a sentence on how it limits the meaning of the
            model's ELBO.
    """

    name: str
    default: Any
    example: Any
    meaning: str
    describe: Callable[[Any], str]
    acts: str = "changes"
    excludes: tuple[str, ...] = ()
    of_rate: bool = True
    reservation: Callable[[Any], str] | None = None

    @property
    def replaces(self) -> bool:
        """True if the setting replaces the ELBO by another objective."""
        return self.acts == "replaces"

    def used(self, values: Mapping[str, Any]) -> bool:
        """Return whether `values` contain it with a value other than the default."""
        return values.get(self.name, self.default) != self.default

    def conflicts(self, other: Setting) -> bool:
        """Return whether one of the two settings has no effect together with the other."""
        both = self.replaces and other.replaces and self is not other
        return both or other.name in self.excludes or self.name in other.excludes


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "beta",
        default=1.0,
        example=2,
        meaning="weight of the rate, the KL divergence from the prior",
        describe=lambda value: f"beta {value:g}",
        acts="weights",
    ),
    Setting(
        "free_bits",
        default=0.0,
        example=0.5,
        meaning="nats of each latent dimension that are free of cost, to avoid collapsed latents",
        describe=lambda value: f"free_bits {value:g}",
        excludes=("capacity", "balance"),
    ),
    Setting(
        "capacity",
        default=0.0,
        example=5,
        meaning="target of the rate, in nats",
        describe=lambda value: f"capacity {value:g}",
        excludes=("free_bits", "balance"),
    ),
    Setting(
        "iwae",
        default=0,
        example=8,
        meaning="number of samples of the importance-weighted bound, which replaces the ELBO",
        describe=lambda value: f"the importance-weighted bound, {value} samples",
        acts="replaces",
        excludes=("beta", "free_bits", "capacity", "balance", "adversarial"),
    ),
    Setting(
        "tc",
        default=0.0,
        example=6,
        meaning="weight of the total correlation; the rest of the rate has weight 1 (beta-TCVAE)",
        describe=lambda value: f"the ELBO with the total correlation weighted by {value:g}",
        acts="replaces",
        excludes=("beta", "free_bits", "capacity", "balance"),
    ),
    Setting(
        "mmd",
        default=0.0,
        example=10,
        meaning="weight of the maximum mean discrepancy between q(z) and the prior (InfoVAE)",
        describe=lambda value: f"the ELBO minus {value:g} MMD",
        acts="replaces",
        excludes=("free_bits", "capacity", "balance"),
    ),
    Setting(
        "balance",
        default=False,
        example=True,
        meaning="weight the rate of each level during warm-up, so that all levels are used (NVAE)",
        describe=lambda value: "balanced levels",
    ),
    Setting(
        "spectral",
        default=0.0,
        example=0.01,
        meaning="weight of a penalty on the largest singular values of the kernels, which keeps "
        "deep models stable",
        describe=lambda value: f"a spectral penalty weighted by {value:g}",
        of_rate=False,
    ),
    Setting(
        "prior_share",
        default=0.0,
        example=0.5,
        meaning="share of the bound with z from the prior p(z | y), for recipes that restore "
        "pictures",
        describe=lambda value: f"the ELBO, {value:.0%} of it with z from the prior",
        acts="replaces",
        excludes=("free_bits", "capacity", "balance", "adversarial"),
    ),
    Setting(
        "path",
        default=False,
        example=True,
        meaning="use the path derivative of the ELBO, which has less variance near the optimum "
        "(sticking the landing)",
        describe=lambda value: "the ELBO, by its path derivative",
        acts="replaces",
        excludes=("free_bits", "capacity", "balance"),
    ),
    Setting(
        "adversarial",
        default=0.0,
        example=0.3,
        meaning="weight of an adversarial term, relative to the likelihood, for sharper pictures",
        describe=lambda value: f"an adversarial term weighted by {value:g}",
        acts="adds to",
        of_rate=False,
        reservation=lambda value: (
            f"trained with an adversarial term of weight {value:g}, for sharper pictures: the "
            "ELBO is measured as for any model and is a lower bound, but it is not what was "
            "maximised"
        ),
    ),
    Setting(
        "theta_prior",
        default="",
        example="normal:1.0",
        meaning="prior of the weights, normal:SCALE or laplace:SCALE: MAP instead of maximum "
        "likelihood",
        describe=lambda value: f"weights with the prior {value}",
        acts="adds to",
        of_rate=False,
    ),
)

# The default values by name. A value for each of these names describes an objective completely.
OBJECTIVE: dict[str, Any] = {each.name: each.default for each in SETTINGS}


def spell(name: str, value: Any) -> str:
    """Return a setting as it is given to ``--set``, such as ``beta=2``."""
    return f"{name}={value if isinstance(value, str) else json.dumps(value)}"


def conflict(values: Mapping[str, Any]) -> tuple[Setting, Setting, str] | None:
    """Return the first two settings in use that cannot be combined, and the reason, or None."""
    used = [each for each in SETTINGS if each.used(values)]
    used.sort(key=lambda each: not each.replaces)
    for number, one in enumerate(used):
        for other in used[number + 1 :]:
            if one.conflicts(other):
                return one, other, _reason(one, other)
    return None


def _reason(one: Setting, other: Setting) -> str:
    if one.replaces and other.replaces:
        return "both replace the ELBO"
    if one.replaces:
        return f"{one.name} replaces the objective that {other.name} {other.acts}"
    return "both change the rate"


def complete(usual: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value for every setting.

    Args:
        usual: the recipe's values; those that conflict with a chosen setting are dropped.
        chosen: the user's values.
    """
    given = [each for each in SETTINGS if each.name in chosen]
    kept = {
        each.name: usual[each.name]
        for each in SETTINGS
        if each.name in usual and not any(each.conflicts(other) for other in given)
    }
    return {**OBJECTIVE, **kept, **chosen}


def trained_by(objective: Mapping[str, Any]) -> str:
    """Return the objective in words, such as "the ELBO, beta 2".

    Args:
        objective: values by name; missing names, as in files of older versions, have defaults.
    """
    used = [each for each in SETTINGS if each.used(objective)]
    replacing = next((each for each in used if each.replaces), None)
    excluded = () if replacing is None else replacing.excludes
    bound = "the ELBO" if replacing is None else replacing.describe(objective[replacing.name])
    details = [
        each.describe(objective[each.name])
        for each in used
        if not each.replaces and each.name not in excluded
    ]
    return ", ".join([bound, *details])


def reservations(objective: Mapping[str, Any] | None) -> list[str]:
    """Return one sentence for each setting in use that limits the meaning of a model's ELBO.

    Args:
        objective: the settings of the fit; None for models of 0.1.0, which do not store them.
    """
    values = objective or {}
    return [
        each.reservation(values[each.name])
        for each in SETTINGS
        if each.reservation is not None and each.used(values)
    ]


def help_text() -> str:
    """Return one line per setting with an example and its meaning."""
    return "\n".join(f"{spell(each.name, each.example)}: {each.meaning}" for each in SETTINGS)
