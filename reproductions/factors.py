"""Disentanglement of a VAE, a beta-VAE and a beta-TCVAE on sprites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import nn

from lowerbound.coding.rows import subset
from lowerbound.nn.model import LatentModel
from lowerbound.nn.objectives.aggregate import BetaTc
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.tasks import draws
from reproductions.digits import steady
from reproductions.disentanglement import (
    Codes,
    Factors,
    Votes,
    World,
    beta_vae,
    dci,
    factor_vae,
    mutual_information_gap,
    sap,
)
from reproductions.experiment import Arm, Check, Experiment, Means, Objective, Published, Scale
from reproductions.sprites import Sprites

BATCH = 64
BETA = 6.0
_MEDIANS = {"mig": 0.102, "dci": 0.186, "sap": 0.049, "factor_vae": 0.66, "beta_vae": 0.823}


def measure(model: LatentModel, rows: int, seed: int) -> Mapping[str, float]:
    """Return the five scores of the means of q(z | x), each from about `rows` rows or votes."""
    sprites = Sprites()

    def represent(factors: Factors) -> Codes:
        index = sprites.index(torch.from_numpy(factors))
        return draws.embed(model, subset(sprites, index)).numpy()

    world = World(Sprites.sizes, represent)
    codes, factors = world.draw(rows + rows // 2, seed)
    votes = Votes(train=rows, test=rows // 2, variance=rows)
    return {
        "mig": mutual_information_gap(codes[:rows], factors[:rows]),
        "dci": dci(codes, factors, train=rows, test=rows // 2, seed=seed).disentanglement,
        "sap": sap(codes, factors, train=rows, test=rows // 2, seed=seed),
        "factor_vae": factor_vae(world, votes, seed).test,
        "beta_vae": beta_vae(world, votes, seed).test,
    }


def _elbo(beta: float) -> Objective:
    return lambda model, per_epoch, epochs: Elbo(model, beta=beta)


def _beta_tc(model: nn.Module, per_epoch: int, epochs: int) -> nn.Module:
    return BetaTc(model, per_epoch * BATCH, tc=BETA)


def _arm(objective: Objective, published: bool = False, tolerance: str = "") -> Arm:
    return Arm(
        "conv",
        {"shape": [1, 64, 64], "latent": 10, "channels": [16, 16, 32, 32], "likelihood": "bits"},
        objective,
        {name: Published(value, False) for name, value in _MEDIANS.items()} if published else {},
        tolerance,
    )


def _judge(means: Means) -> Sequence[Check]:
    tc, plain = means["beta-tc"], means["vae"]
    return [
        Check(
            f"beta-TCVAE's {name} is above the plain VAE's: {tc[name]:.3f} and {plain[name]:.3f}",
            tc[name] > plain[name],
        )
        for name in _MEDIANS
    ]


SPRITES = Experiment(
    title="A VAE, a beta-VAE and a beta-TCVAE on sprites with five known factors",
    paper="Locatello et al., Challenging common assumptions in the unsupervised learning of "
    "disentangled representations, 2019 (medians of the beta-VAE on dSprites, quoted); "
    "Chen et al., Isolating sources of disentanglement, 2018",
    data="sprites",
    shape=(1, 64, 64),
    arms={
        "vae": _arm(_elbo(1.0)),
        "beta": _arm(_elbo(BETA), published=True),
        "beta-tc": _arm(_beta_tc, tolerance="above vae"),
    },
    scales={
        "smoke": Scale(1, 3, train=2000, test=100, rows=200, time="1 min"),
        "short": Scale(4, 10, train=100_000, test=1000, rows=1000, time="1 h"),
        "full": Scale(26, 100, rows=10_000, time="a GPU: 20 min"),
    },
    optimiser=partial(steady, BATCH, 5e-4),
    judge=_judge,
    metric="mig",
    measure=measure,
    notes="Sprites are drawn by code, after dSprites. Scores are the variants of "
    "disentanglement_lib on means, of 10,000 rows (short: 1,000). The networks are a quarter as "
    "wide as the study's.",
)
