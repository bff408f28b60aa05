"""lowerbound's own fit path: the side `ours`."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import torch
from common import (
    GENE_HIDDEN,
    GENE_LATENT,
    GENES,
    TABLE_HIDDEN,
    TABLE_LATENT,
    Clock,
    Outcome,
    Work,
    report,
)
from torch import Tensor, nn
from torch_nets import nets_of

from lowerbound import Plan, recipes
from lowerbound.coding.rows import Batch, Dense
from lowerbound.nn.distributions.families import Bits, Conditional, FixedSigma
from lowerbound.nn.latents.posteriors import Plain
from lowerbound.nn.latents.priors import StandardNormal
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.mlp import Concat, Empty, Single
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.training import plan
from lowerbound.training.engine import loop
from lowerbound.training.engine.history import Check, History
from lowerbound.training.engine.settings import Budget, Optimiser
from lowerbound.training.fit import learn

NEVER = 10**6  # checks without a gain before stopping early
MANY = 10**7  # steps of a fit that is long enough to be compiled if that is faster


def dense_model(data: str) -> LatentModel:
    """Return the VAE of a dense workload, composed of the library's parts."""
    nets = nets_of(data)
    level = Level(
        "z",
        StandardNormal(nets.latent),
        Plain(nn.Linear(nets.features, 2 * nets.latent)),
        Concat(nets.decoder),
    )
    family = Bits() if nets.bernoulli else FixedSigma(1.0)
    return LatentModel(Single(nets.encoder), [level], Conditional(nets.last, family), Empty())


def count_model() -> LatentModel:
    return recipes.counts(GENES, latent=GENE_LATENT, hidden=[GENE_HIDDEN], likelihood="nb")


def log_library(x: Tensor) -> Tensor:
    """Return the context of a count model, as `CountsCoding` has it."""
    return x.sum(1, keepdim=True).clamp_min(1.0).log()


def train(work: Work, data: np.ndarray) -> Outcome:
    """Fit a model that is composed in code to rows in memory."""
    torch.manual_seed(work.seed)
    x = torch.from_numpy(data)
    counts = work.data == "counts"
    model = count_model() if counts else dense_model(work.data)
    parts = (x[: work.rows], x[work.rows :])
    rows, valid = (Dense(part, log_library(part) if counts else None) for part in parts)
    budget, objective = Budget(epochs=work.epochs, patience=NEVER), Elbo(model)
    engine = loop.chosen(objective, valid, work.batch, steps=MANY)
    compiling = Clock()

    def compiled(trainer: loop._Trainer, batch: Batch) -> None:
        with compiling:
            compile_steps(trainer, batch)

    compile_steps = loop._Trainer._compile
    with mock.patch.object(loop._Trainer, "_compile", compiled), Clock() as clock:
        history = loop.fit(
            objective,
            rows,
            valid,
            budget=budget,
            optimiser=Optimiser(batch_size=work.batch, ema=0.0),
            seed=work.seed,
            engine=engine,
        )
    outcome = _outcome(clock.seconds - compiling.seconds, history, work)
    outcome.facts |= {"engine": str(engine), "compile_seconds": round(compiling.seconds, 3)}
    return outcome


def fit_table(work: Work, data: dict[str, np.ndarray]) -> Outcome:
    """Do the whole of `learn` for a table: code, train, calibrate."""
    preset = plan.PRESETS["balanced"]
    plan.PRESETS["balanced"] = preset._replace(
        budget=Budget(epochs=work.epochs, patience=NEVER),
        optimiser=Optimiser(batch_size=work.batch, ema=preset.optimiser.ema),
    )
    settings = {"hidden": [TABLE_HIDDEN, TABLE_HIDDEN], "iwae": 0}
    table = pa.table(data)
    with Clock() as clock:
        trained = learn(table, Plan(settings=settings, latent=TABLE_LATENT, seed=work.seed))
    history = trained.facts["history"]
    checks = [Check(**check) for check in history["checks"]]
    outcome = _outcome(clock.seconds, History(checks=checks), work)
    outcome.facts |= {"split": trained.facts["split"], "stopped": history["stopped"]}
    # As for the peer, rows of the table: those that are held out are not trained on.
    outcome.facts["samples_trained_on"], outcome.samples = outcome.samples, work.epochs * work.rows
    return outcome


def _outcome(seconds: float, history: History, work: Work) -> Outcome:
    """Return the whole time, checks on held-out rows included."""
    last = history.checks[-1]
    facts: dict[str, Any] = {"checks": len(history.checks), "threads": torch.get_num_threads()}
    return Outcome(seconds, last.step * work.batch, -last.train_elbo, facts)


def either(work: Work, data: Any) -> Outcome:
    return fit_table(work, data) if work.data == "mixed" else train(work, data)


if __name__ == "__main__":
    report(either, ["lowerbound", "torch", "numpy"])
