"""Turn a trained network into a `Model`: calibrate its scores and check its health."""

from __future__ import annotations

import platform
from typing import Any

import torch

from lowerbound._version import __version__
from lowerbound.coding.base import Coded
from lowerbound.coding.pictures import values_of
from lowerbound.coding.rows import Rows, subset
from lowerbound.coding.tables import TableCoding
from lowerbound.files.data import Data
from lowerbound.nn.model import LatentModel
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.tasks import autoencode, doctor, draws, drift, restore, rules
from lowerbound.tasks.calibration import Calibration
from lowerbound.tasks.completion import LATENTS
from lowerbound.tasks.scoring import Likelihood, Scoring, by_levels, levels_lacking
from lowerbound.tasks.state import HeldOut
from lowerbound.tasks.trained import Model
from lowerbound.training import row_stage
from lowerbound.training.engine.engine import flops
from lowerbound.training.plan import Plan, budget_of, objective_settings
from lowerbound.training.split import HELD_CROPS, FitInputs, Fitted

CROP_SAMPLES = 4  # importance samples of a crop's score
TYPICAL_ROWS = 500  # held-out rows from which each column's usual part of a score is estimated
TYPICAL_COLUMNS = 5_000
LEVEL_ROWS = 1_000  # held-out rows scored by levels, with half the draws of the likelihood
GAIN = 1.0  # dB that a restored picture must gain over the given one: a visible difference


def calibrated(plan: Plan, frame: Data, inputs: FitInputs, fitted: Fitted) -> Model:
    """Score the calibration rows, set the alarm threshold and check the model.

    Args:
        plan: the options of the fit.
        frame: the data that were read.
        inputs: the coded rows and their split.
        fitted: the model after training.
    """
    model, arguments, history, engine, priors, rows, proposal = fitted
    coding, coded, split = inputs.coding, inputs.coded, inputs.split
    index = split.calibration
    samples = inputs.samples or score_samples(model, coded)
    calibration = Calibration.of(Likelihood(samples)(model, coded.part(index)))
    held = subset(coded.rows, index)
    some = subset(coded.rows, index[:TYPICAL_ROWS])
    columns = coding.groups if not coding.shape else ()  # pictures have no named columns
    typical = (
        draws.cell_nats(model, some).flatten(1).mean(0)
        if 0 < len(columns) <= TYPICAL_COLUMNS
        else None
    )
    learned = _some(_first(inputs.learned, inputs.checked), coded)
    valid = _first(inputs.valid, inputs.checked)
    health = doctor.examine(model, learned, valid, values_of(coding), plan.recipe.parameters)
    quality = None
    if plan.recipe.restoration and plan.recipe.restoration.paired:
        health = _restoring(health, fitted, valid)
    elif plan.recipe.restoration:
        quality = autoencode.quality(model, valid)
        health = _encoding(health, quality)
    facts = {
        "version": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "origin": frame.origin,
        "columns": list(frame.names),
        "rows": len(coded.rows),
        "split": {name: len(getattr(split, name)) for name in ("train", "valid", "calibration")},
        "plan": plan.document(),
        "objective": objective_settings(plan, coded.missing_share),
        "patience": budget_of(plan).patience,
        "engine": engine.as_dict(),
        "history": history.as_dict(),
        **({} if priors is None else {"priors_history": priors.as_dict()}),
        **({} if rows is None else {"rows_history": rows.as_dict()}),
        **({} if proposal is None else {"proposal_history": proposal.as_dict()}),
        **_uses_of_rows(plan, model, inputs),
        "typical_nats": {}
        if typical is None
        else {group.column: float(typical[list(group.parts)].sum()) for group in columns},
        **({} if quality is None else {"decoded": quality._asdict()}),
        "valid_elbo": health.valid_elbo,
        "latent": draws.embed(model, subset(coded.rows, index[:1])).shape[1],
        "health": health.as_dict(),
        "importance_samples": samples,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return Model(
        recipe=plan.recipe,
        arguments=arguments,
        coding=coding,
        model=model,
        calibration=calibration,
        alarm=calibration.alarm(plan.alarm_rate),
        facts=facts,
        further=_further(plan, model, coded.part(index[:LEVEL_ROWS]), samples),
        held_out=HeldOut() if plan.recipe.restoration else drift.held_out(coding, held),
    )


def _uses_of_rows(plan: Plan, model: LatentModel, inputs: FitInputs) -> dict[str, Any]:
    """Return by which of the two models of a table rows are drawn and completed, and the rules.

    These are what held on all training rows, which drawn and completed rows keep.
    """
    if model.rows is None:
        return {}
    groups = [group.parts for group in inputs.coding.groups]
    drawn_by = row_stage.draws(model, inputs.valid)
    if drawn_by == LATENTS:  # of few rows or steps
        inputs.say("rows       drawn from the VAE: its held-out likelihood is the higher one")
    completes = row_stage.completes(model, inputs.valid, groups, plan.seed)
    assert isinstance(inputs.coding, TableCoding), "the rows are of a table"
    found = rules.rules(draws.chain_of(model.rows), inputs.coding)
    for text in rules.shown(found):
        inputs.say(text)
    return {"draws": drawn_by, "completes": completes, "rules": found}


def score_samples(model: LatentModel, coded: Coded) -> int:
    """Return the number of importance samples per score: half as many of a proposal's draws."""
    if coded.each > 1:
        return CROP_SAMPLES
    first = coded.rows.take(torch.zeros(1, dtype=torch.long))
    samples = draws.samples_worth(flops(Elbo(model), first.to(next(model.parameters()).device)))
    return samples if model.proposal is None else max(2, samples // 2)


def _further(plan: Plan, model: LatentModel, held_out: Coded, samples: int) -> dict[str, Scoring]:
    """Calibrate the scorings that need their own held-out scores."""
    if levels_lacking(plan.recipe, model) is not None:
        return {}
    return {"levels": by_levels(model, held_out, plan.alarm_rate, samples)}


def _restoring(health: doctor.Health, fitted: Fitted, valid: Rows) -> doctor.Health:
    """Return `health` with the quality of restored held-out pictures added."""
    if fitted.arguments.get("classes"):
        right, usual = restore.accuracy(fitted.model, valid), restore.commonest(valid)
        told = (
            f"{right:.1%} of the held-out pixels are classified correctly; {usual:.1%} of them "
            "have the most frequent class"
        )
        doubt = "" if right > usual else "no better than the most frequent class everywhere"
        return doctor.of_restoring(health, told, doubt)
    before, after = restore.decibels(fitted.model, valid)
    simple = restore.filtered_decibels(valid)
    told = (
        f"restoration takes held-out crops from {before:.2f} dB to {after:.2f} dB; the best of "
        f"some Gaussian and median filters takes them to {simple:.2f} dB"
    )
    doubt = ""
    if not after >= before + GAIN:
        doubt = f"only {after - before:.2f} dB better than the given picture"
    elif not after > simple:
        doubt = "no better than a Gaussian or median filter"
    return doctor.of_restoring(health, told, doubt)


def _encoding(health: doctor.Health, found: autoencode.Quality) -> doctor.Health:
    """Return `health` with the quality of decoded held-out pictures added."""
    told = (
        f"held-out crops are decoded to {found.psnr:.2f} dB at {found.bits_per_pixel:.3f} bits "
        f"per pixel; made as small as their latents and enlarged, they reach "
        f"{found.small_psnr:.2f} dB"
    )
    doubt = "" if found.psnr > found.small_psnr else "no better than pictures of the latents' size"
    return doctor.of_restoring(health, told, doubt)


def _first(rows: Rows, most: int) -> Rows:
    """Return the first rows, `most` of them or all if there are fewer."""
    return subset(rows, torch.arange(min(most, len(rows))))


def _some(learned: Rows, coded: Coded) -> Rows:
    """Return the training rows that are checked: all, or `HELD_CROPS` crops of pictures."""
    return learned if coded.each == 1 else _first(learned, HELD_CROPS)
