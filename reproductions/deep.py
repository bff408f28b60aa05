"""Deep hierarchies of images: a ladder of convolutions, and a small NVAE with its ablations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from lowerbound.nn.objectives.elbo import Elbo, Ramp
from lowerbound.nn.objectives.schedules import Cosine
from lowerbound.nn.objectives.spectral import Spectral
from lowerbound.training.engine.settings import Optimiser
from reproductions.digits import SMOKE
from reproductions.experiment import Arm, Check, Experiment, Means, Objective, Published, Scale

SHAPE = (1, 28, 28)
BAR = 80.5  # upper bound for both models on a CPU, in nats


def _rising(share: float, *, balance: bool = True, spectral: float = 0.0) -> Objective:
    """Return the ELBO with a linear warm-up of the weight of the rate.

    Args:
        share: of all steps, for the warm-up.
        balance: whether the levels are balanced during the warm-up.
        spectral: weight of the spectral regularisation.
    """

    def objective(model: nn.Module, per_epoch: int, epochs: int) -> nn.Module:
        beta = Ramp(0.0, 1.0, round(share * epochs * per_epoch))
        elbo = Elbo(model, beta=beta, balance=balance)
        return Spectral(elbo, spectral) if spectral else elbo

    return objective


def _averaged(batch: int, rate: float, epochs: int, per_epoch: int) -> Optimiser:
    """Return Adam with a cosine schedule and a moving average of the weights."""
    schedule = Cosine(epochs * per_epoch, 0.01)
    return Optimiser(
        batch_size=batch, learning_rate=rate, clip=200.0, warmup=100, ema=0.999, schedule=schedule
    )


def _judge_ladder(means: Means) -> Sequence[Check]:
    ladder = means["ladder"]
    units = {name: n for name, n in ladder.items() if name.startswith("active_")}
    return [
        Check(f"{ladder['nll']:.2f} nats (at most {BAR})", ladder["nll"] <= BAR),
        Check("active units in every level", min(units.values(), default=0.0) >= 1),
    ]


LADDER = Experiment(
    title="A ladder of three levels of convolutions",
    paper="addtt/ladder-vae-pytorch, README (3 layers, 1,000 importance samples)",
    data="static-mnist",
    shape=SHAPE,
    arms={
        "ladder": Arm(
            "conv_ladder",
            {"shape": list(SHAPE), "groups": [2, 1], "channels": 32, "latent_channels": 4},
            _rising(1 / 6),
            {"nll": Published(79.24)},
            f"<= {BAR}",
        )
    },
    scales={
        "smoke": SMOKE,
        "short": Scale(55, 1000, test=500, time="2 h"),
        "full": Scale(200, 1000, time="6 h"),
    },
    optimiser=partial(_averaged, 100, 2e-3),
    judge=_judge_ladder,
    precision="bfloat16",
    notes="A fraction of the published network's size, for one core, its products in bfloat16 "
    "while training. The short scale evaluates 500 test rows, drawn at random.",
)


_SMALL = {"shape": list(SHAPE), "groups": [5, 3], "channels": 8, "latent_channels": 8}
_FULL = {"spectral": 0.01}


def _nvae(
    published: dict[str, Published] | None = None,
    tolerance: str = "worse",
    arguments: dict[str, Any] | None = None,
    **objective: Any,
) -> Arm:
    return Arm(
        "nvae",
        {**_SMALL, **(arguments or {})},
        _rising(0.3, **{**_FULL, **objective}),  # as in the paper's table of settings
        published or {},
        tolerance,
    )


def _judge_nvae(means: Means) -> Sequence[Check]:
    whole = means["nvae"]["nll"]
    return [Check(f"{whole:.2f} nats (at most {BAR})", whole <= BAR)]


def _judge_lesions(means: Means) -> Sequence[Check]:
    whole = means["nvae"]["nll"]
    lesions = {name: mean["nll"] - whole for name, mean in means.items() if name != "nvae"}
    return [Check(f"{name} costs {worse:.2f} nats", worse > 0) for name, worse in lesions.items()]


NVAE = Experiment(
    title="A small NVAE (two scales of 5 and 3 groups)",
    paper="Vahdat & Kautz, NVAE: a deep hierarchical variational autoencoder, 2020, table 1 "
    "(MNIST, at 20 times the compute)",
    data="mnist",
    shape=SHAPE,
    arms={"nvae": _nvae({"nll": Published(78.01, checked=False)}, f"<= {BAR}")},
    scales={
        "smoke": Scale(1, 3, train=400, test=50, time="1 min"),
        "short": Scale(15, 200, test=1000, time="2 h"),
        "full": Scale(60, 1000, time="a GPU: 2 h"),
    },
    optimiser=partial(_averaged, 100, 5e-3),
    judge=_judge_nvae,
    values="binarised",
    notes="The short scale, for one core, evaluates 1,000 images, drawn at random.",
)

LESIONS = Experiment(
    title="What each part of the small NVAE is worth",
    paper="Vahdat & Kautz, NVAE: a deep hierarchical variational autoencoder, 2020, tables 3-6",
    data="mnist",
    shape=SHAPE,
    arms={
        "nvae": _nvae(tolerance=""),
        "no-residual": _nvae(arguments={"residual": False}),
        "no-squeeze": _nvae(arguments={"squeeze_excite": False}),
        "no-spectral": _nvae(spectral=0.0),
        "no-balance": _nvae(balance=False),
    },
    scales={
        "smoke": Scale(1, 3, train=400, test=50, time="1 min"),
        "short": Scale(2, 20, train=20_000, test=500, time="30 min"),
        "full": Scale(20, 200, time="a GPU: 4 h"),
    },
    optimiser=partial(_averaged, 100, 5e-3),
    judge=_judge_lesions,
    values="binarised",
    notes="The short scale, for a CPU, learns from 20,000 images and evaluates 500.",
)
