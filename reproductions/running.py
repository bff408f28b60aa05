"""Run an experiment: train each arm and seed, with exact resume, and evaluate it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowerbound import noise, recipes
from lowerbound.coding.augmentations import binarised
from lowerbound.coding.rows import Dense, Rows, subset
from lowerbound.errors import UsageError
from lowerbound.nn.trace import Trace, posterior_mean
from lowerbound.tasks import latent_use, metrics
from lowerbound.training.engine import loop
from lowerbound.training.engine.checkpoints import OnDisk
from lowerbound.training.engine.history import Check, History
from lowerbound.training.engine.settings import Budget
from reproductions.datasets import DATASETS, Images
from reproductions.experiment import Arm, Experiment, Scale

Say = Callable[[str], None]
_NEVER = 10**9  # checks without improvement
_DONE = "result.json"


class Job(NamedTuple):
    """One arm with one seed: the folder of its states and its device."""

    experiment: Experiment
    scale: Scale
    arm: str
    seed: int
    folder: Path
    device: str = "cpu"


class _Data(NamedTuple):
    train: Rows
    valid: Rows
    test: Rows


def run_arm(job: Job, say: Say = lambda line: None) -> dict[str, Any]:
    """Train and evaluate one arm with one seed, or return the results of an earlier run.

    Raises:
        DataError: E001, E009 if the data set is missing.
        UsageError: E250 if the scale has changed since the earlier run.
        KeyboardInterrupt: after Ctrl-C; the same call continues the run.
    """
    kept = job.folder / _DONE
    if kept.exists():
        found = json.loads(kept.read_text())
        if not of_scale(found, job.scale):
            raise UsageError(
                "E250",
                f"{kept} holds a result of {found['epochs']:g} epochs and {found['samples']} "
                f"samples, but the scale has {job.scale.epochs} and {job.scale.samples}",
                fix=f"remove {job.folder}, or keep new states elsewhere: --states FOLDER",
            )
        return found
    job.folder.mkdir(parents=True, exist_ok=True)
    arm, data = job.experiment.arms[job.arm], _data(job)
    with noise.isolated(job.seed, "weights"):
        model = recipes.find(arm.recipe).make(dict(arm.arguments))
        if arm.start is not None:
            arm.start(model, data.train)
    model = model.to(job.device)
    history = _train(job, arm, model, data, say)
    if history.stopped == "interrupt":  # the states are kept, but there is no result
        raise KeyboardInterrupt(f"stopped; the state is kept in {job.folder}")
    measure = job.experiment.measure
    trained, began = history.checks[-1].seconds, time.perf_counter()
    result = {
        "seed": job.seed,
        **_evaluate(job, model, data),
        **(measure(model, job.scale.rows, job.seed) if measure else {}),
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": history.checks[-1].step,
        "epochs": round(history.checks[-1].epoch, 2),
        "training_seconds": round(trained, 1),  # the sum over all parts of a resumed run
        "evaluation_seconds": round(time.perf_counter() - began, 1),
        "stopped": history.stopped,
        "device": job.device,
    }
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1))
    part.replace(kept)
    return result


def of_scale(run: Mapping[str, Any], scale: Scale) -> bool:
    """Return whether a run has the epochs and the samples of a scale."""
    ended = run["stopped"] != "epochs" or run["epochs"] == scale.epochs
    rows = scale.test is None or run["test_rows"] <= scale.test  # fewer if the data set is smaller
    return ended and rows and run["samples"] == scale.samples


def _data(job: Job) -> _Data:
    """Return the rows as inputs of the model; held-out rows are binarised once."""
    parts = DATASETS[job.experiment.data](job.seed)
    scale = job.scale
    train = _rows(parts.train, scale.train, job.experiment)
    valid = _rows(parts.valid, None, job.experiment, "valid")
    return _Data(train, valid, _rows(parts.test, scale.test, job.experiment, "test"))


def _rows(images: Images | Rows, most: int | None, experiment: Experiment, held: str = "") -> Rows:
    if not isinstance(images, np.ndarray):  # rows that are generated on access
        return subset(images, torch.arange(len(images))[:most])
    x = torch.from_numpy(_some(images, most, held)).float().view(-1, *experiment.shape)
    x = x / 255 if experiment.values in ("binarised", "grey") else x
    if held and experiment.values == "binarised":
        x = (torch.rand(x.shape, generator=noise.generator("binarised", held)) < x).float()
    return Dense(x)


def _some(images: np.ndarray, most: int | None, held: str) -> np.ndarray:
    """Return a fixed random sample of `most` images.

    The first images are not representative: the test set of static MNIST begins with the digits 0
    and 1. Held-out rows are always shuffled, since training reads only the first of them.
    """
    if held != "valid" and (most is None or most >= len(images)):
        return np.array(images)
    source = noise.generator("some", held)
    return images[torch.randperm(len(images), generator=source)[:most].numpy()]


def _train(job: Job, arm: Arm, model: torch.nn.Module, data: _Data, say: Say) -> History:
    experiment, epochs = job.experiment, job.scale.epochs
    per_epoch = len(data.train) // experiment.optimiser(epochs, 1).batch_size
    objective = arm.objective(model, per_epoch, epochs)

    def report(check: Check, budget: Budget) -> None:
        say(
            f"{job.arm} seed {job.seed}  epoch {check.epoch:7.2f}/{epochs}  train ELBO "
            f"{check.train_elbo:9.3f}  held out {check.valid_bound:9.3f}  active "
            f"{check.active}/{check.latent}  {check.rows_per_second:8.0f} rows/s"
        )

    optimiser = experiment.optimiser(epochs, per_epoch)
    return loop.fit(
        objective,
        data.train,
        data.valid,
        budget=Budget(epochs=epochs, patience=experiment.patience or _NEVER),
        optimiser=optimiser,
        seed=job.seed,
        engine=loop.chosen(objective, data.valid, optimiser.batch_size, experiment.precision),
        checkpoints=OnDisk(job.folder),
        report=report,
        view=binarised if experiment.values == "binarised" else None,
    )


def _evaluate(job: Job, model: torch.nn.Module, data: _Data) -> dict[str, float]:
    """Evaluate the test rows, in nats per row and bits per dimension."""
    test, samples = data.test, job.scale.samples
    weighted = metrics.log_likelihood(model, test, samples)
    bound = metrics.elbo(model, test)
    dimensions = float(np.prod(job.experiment.shape))
    use = latent_use.latent_use(model, test)
    levels = _active_by_level(model, test, use.active)
    return {
        "nll": -weighted.mean,
        "nll_standard_error": weighted.mean_standard_error,
        "samples": samples,
        "test_rows": len(test),
        "elbo": bound.elbo.mean().item(),
        "bound": -bound.elbo.mean().item(),
        "rate": bound.rate.mean().item(),
        "distortion": bound.distortion.mean().item(),
        "bits_per_dimension": -bound.elbo.mean().item() / dimensions / float(np.log(2)),
        "active": int(use.active.sum()),
        "latent": len(use.active),
        **({f"active_{name}": n for name, n in levels.items()} if len(levels) > 1 else {}),
    }


def _active_by_level(model: torch.nn.Module, test: Rows, active: Tensor) -> dict[str, int]:
    """Return the number of latents in use at each site."""
    trace, device = Trace(posterior_mean, 1), next(model.parameters()).device
    with torch.no_grad():
        model(test.take(torch.zeros(1, dtype=torch.long)).x.to(device), trace)
    sizes = [site.z[0].numel() for site in trace.sites.values()]
    parts = active.split(sizes)
    return {name: int(part.sum()) for name, part in zip(trace.sites, parts, strict=True)}


def document(
    name: str, experiment: Experiment, scale: str, runs: Mapping[str, Sequence[dict[str, Any]]]
) -> dict[str, Any]:
    """Return the results of an experiment: every run, the means and the verdict."""
    arms = {}
    for arm, each in runs.items():
        numbers = {k for k, v in each[0].items() if isinstance(v, int | float)} - {"seed"}
        arms[arm] = {
            "published": {k: p._asdict() for k, p in experiment.arms[arm].published.items()},
            "recipe": experiment.arms[arm].recipe,
            "arguments": dict(experiment.arms[arm].arguments),
            "mean": {k: fmean(run[k] for run in each) for k in sorted(numbers)},
            "sd": {k: stdev(run[k] for run in each) for k in sorted(numbers)}
            if len(each) > 1
            else {},
            "runs": list(each),
        }
    complete = set(runs) == set(experiment.arms)
    means = {arm: found["mean"] for arm, found in arms.items()}
    checks = [check._asdict() for check in experiment.judge(means)] if complete else []
    return {
        "experiment": name,
        "title": experiment.title,
        "paper": experiment.paper,
        "scale": scale,
        "metric": experiment.metric,
        "notes": experiment.notes,
        "arms": arms,
        "checks": checks,
        "missing": sorted(set(experiment.arms) - set(runs)),
    }
