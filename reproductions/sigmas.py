"""Experiments on the scale of the likelihood."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from lowerbound.coding.rows import Rows
from lowerbound.nn.model import LatentModel
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.training.engine.settings import Optimiser
from reproductions.experiment import Arm, Check, Experiment, Means, Published, Scale

BETA = 0.01  # beta of the paper's beta-VAE, whose sigma is sqrt(beta / 2)
_PAPER = {"unit": 740.5, "beta": -796.2, "shared": -896.1}


def _with_sigma(sigma: float) -> Callable[[LatentModel, Rows], None]:
    """Return a function that fixes the sigma of the likelihood, as a beta-VAE does implicitly."""

    @torch.no_grad()
    def start(model: LatentModel, train: Rows) -> None:
        (family,) = (m for n, m in model.likelihood.named_buffers() if n.endswith("sigma"))
        family.fill_(sigma)

    return start


def _arm(likelihood: str, published: float | None, sigma: float | None = None) -> Arm:
    def objective(model: nn.Module, per_epoch: int, epochs: int) -> nn.Module:
        return Elbo(model)

    return Arm(
        recipe="conv",
        arguments={
            "shape": [1, 28, 28],
            "latent": 20,
            "channels": [32, 64, 128],
            "likelihood": likelihood,
        },
        objective=objective,
        published={} if published is None else {"bound": Published(published)},
        tolerance="2 %" if published is None else "6 %",
        start=None if sigma is None else _with_sigma(sigma),
    )


def _judge(means: Means) -> Sequence[Check]:
    ours = {name: mean["bound"] for name, mean in means.items()}
    checks = [
        Check(
            f"{name}: {ours[name]:.1f} against {paper:.1f} (within 6 % or better)",
            ours[name] <= paper + 0.06 * abs(paper),
        )
        for name, paper in _PAPER.items()
    ]
    order = ours["unit"] > ours["beta"] > ours["shared"]
    return [
        *checks,
        Check("unit variance is worse than beta, and beta than a shared sigma", order),
        Check(
            f"the analytic sigma ({ours['optimal']:.1f}) is as good as the shared one, to 2 %",
            ours["optimal"] <= ours["shared"] + 0.02 * abs(ours["shared"]),
        ),
    ]


MNIST = Experiment(
    title="Unit variance, beta, a learned sigma and the analytic one",
    paper="Rybkin, Daniilidis & Levine, Simple and effective VAE training with calibrated "
    "decoders, 2021, table 3 (MNIST)",
    data="mnist",
    shape=(1, 28, 28),
    arms={
        "unit": _arm("gaussian", _PAPER["unit"]),
        "beta": _arm("gaussian", _PAPER["beta"], (BETA / 2) ** 0.5),
        "shared": _arm("shared", _PAPER["shared"]),
        "optimal": _arm("optimal", None),
    },
    scales={
        "smoke": Scale(1, 5, train=512, test=64, time="10 s"),
        "short": Scale(10, 5, time="35 min"),
        "full": Scale(50, 100, time="4 h"),
    },
    optimiser=lambda epochs, per_epoch: Optimiser(
        batch_size=128, learning_rate=1e-3, clip=1e6, warmup=0
    ),
    judge=_judge,
    metric="bound",
    values="grey",
    notes="The bound is -ELBO, nats per image, with the sigma of training. Ten epochs, as in the "
    "paper's code. The beta-VAE is trained as the model that it is, with sigma^2 = beta / 2 and "
    "beta = 0.01. The analytic sigma in evaluation is the running one of training.",
)
