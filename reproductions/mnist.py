"""Experiments on MNIST."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lowerbound.coding.rows import Rows
from lowerbound.nn.model import LatentModel
from lowerbound.nn.objectives.elbo import Elbo, Iwae
from lowerbound.nn.objectives.schedules import Stages
from lowerbound.training.engine.settings import Optimiser
from reproductions.experiment import Arm, Check, Experiment, Means, Published, Scale, close

PIXELS = 784


@torch.no_grad()
def glorot_and_mean(model: LatentModel, train: Rows) -> None:
    """Initialise as in Burda et al.'s code: Glorot uniform, with the decoder at the mean image."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    last = model.likelihood.get_submodule("net")
    assert isinstance(last, nn.Linear)
    mean = train.take(torch.arange(len(train))).x.mean(0)
    last.bias.copy_(mean.clamp(0.001, 0.999).logit())


def _stages(epochs: int, per_epoch: int) -> Optimiser:
    """Return Adam with 3^i epochs at 10^(-i/7) times the first learning rate, i = 0, 1, ..."""
    lengths, factors = [], []
    for i in range(8):
        if sum(lengths) >= epochs:
            break
        lengths.append(3**i)
        factors.append(10 ** (-i / 7))
    # The paper's code adds its epsilon of 1e-4 to gradients summed over a batch of 20 rows.
    return Optimiser(
        batch_size=20,
        learning_rate=1e-3,
        clip=1e6,
        warmup=0,
        epsilon=5e-6,
        schedule=Stages(tuple(n * per_epoch for n in lengths), tuple(factors)),
    )


def _iwae_arm(k: int, nll: float, active: float) -> Arm:
    def objective(model: nn.Module, per_epoch: int, epochs: int) -> nn.Module:
        return Elbo(model) if k == 1 else Iwae(model, k, dreg=False)

    return Arm(
        recipe="binary",
        arguments={"features": PIXELS, "latent": 50, "hidden": [200, 200], "layers": "tanh"},
        objective=objective,
        published={"nll": Published(nll), "active": Published(active)},
        tolerance="+1.0",
        start=glorot_and_mean,
    )


def _judge_iwae(means: Means) -> Sequence[Check]:
    one, five = means["k=1"], means["k=5"]
    allowed = 1.0 if one["epochs"] < 3000 else 0.6
    return [
        close("k=1, nats", one["nll"], 86.76, allowed),
        close("k=5, nats", five["nll"], 85.54, allowed),
        Check(f"k=5 is better by {one['nll'] - five['nll']:.2f} nats", five["nll"] < one["nll"]),
        Check(
            f"active units {one['active']:.0f} and {five['active']:.0f} against 19 and 22 (+-3)",
            abs(one["active"] - 19) <= 3 and abs(five["active"] - 22) <= 3,
        ),
    ]


IWAE = Experiment(
    title="VAE against IWAE with 5 samples, one stochastic layer",
    paper="Burda, Grosse & Salakhutdinov, Importance weighted autoencoders, 2016, table 1",
    data="mnist-all",
    shape=(PIXELS,),
    arms={"k=1": _iwae_arm(1, 86.76, 19), "k=5": _iwae_arm(5, 85.54, 22)},
    scales={
        "smoke": Scale(1, 50, train=2000, test=200, time="10 s"),
        "short": Scale(364, 5000, time="1 h"),
        "full": Scale(3280, 5000, time="9 h"),
    },
    optimiser=_stages,
    judge=_judge_iwae,
    values="binarised",
    notes="Short stops after six of the eight stages. Of the paper's 60,000 training images 400 "
    "decide which weights are kept. The test set is binarised once.",
)
