"""Adapt a model of counts to new batches, on new cells alone: all else of the model stays."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.coding.context import Context, Factor, annotation
from lowerbound.coding.counts import CountsCoding
from lowerbound.coding.rows import Rows
from lowerbound.columns.levels import Known
from lowerbound.errors import DataError
from lowerbound.files.data import Whole
from lowerbound.files.read import read
from lowerbound.nn.model import LatentModel
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.recipes.cells import with_covariates
from lowerbound.tasks.trained import Model
from lowerbound.training.split import Say

STEPS, BATCH, RATE = 400, 128, 0.02
FEWEST = 10  # cells of a new level that it can be learned from


def adapted(
    model: Model,
    data: object,
    *,
    steps: int = STEPS,
    seed: int = 0,
    say: Say = lambda line: None,
) -> Model:
    """Return a model that also knows the levels of batches that new cells have.

    Only the weights of the new levels are trained, on these cells, by the ELBO. Embeddings of
    cells of the levels that the model knew are bit-equal to those of the model before, and their
    scores are the same up to the error of their draws.

    References:
        Lotfollahi et al., "Mapping single-cell data to reference atlases by transfer learning",
        2022, https://doi.org/10.1038/s41587-021-01001-7

    Args:
        model: a model of counts with batches.
        data: new cells: a path, an AnnData, a data frame, ...
        steps: steps of training.
        seed: seed of the order of the cells and of the draws.
        say: called with a line about the new levels.

    Returns:
        The model itself where the cells have no new level.

    Raises:
        UsageError: E246 for a model that is not of counts.
        DataError: E046 for a new level with too few cells.
    """
    coding = model.counts_coding
    frame = read(data, wanted=coding.wanted())
    wider, mix, fresh = _wider(coding, frame)
    if not fresh.any():
        say("adapt      the cells have no new level of a batch: the model stays as it is")
        return model
    arguments = {**model.arguments, "batches": wider.covariates.width}
    with noise.isolated(seed, "weights"):
        network = model.recipe.make(arguments)
    parameters = with_covariates(model.model, network, mix)
    _trained(network, wider.encode(frame).rows, parameters, fresh, (steps, seed))
    known = {f.name: f for f in coding.covariates.factors}
    new = [
        f"{f.name} = {level}"
        for f in wider.covariates.factors
        for level in f.levels
        if level not in known[f.name].levels
    ]
    say(f"adapt      {', '.join(new)}: learned from {frame.rows:,} cells, {steps:,} steps")
    facts = {**model.facts, "adapted": [*model.facts.get("adapted", ()), *new]}
    return replace(model, arguments=arguments, coding=wider, model=network.eval(), facts=facts)


class _Wider(NamedTuple):
    """A coding with new levels.

    Attributes:
        coding: the coding.
        mix: (new, old) the numbers of the new context as sums of those of the old one: those of a
            new level are the mean over the known ones.
        fresh: (new,) which numbers are of new levels.
    """

    coding: CountsCoding
    mix: Tensor
    fresh: Tensor


def _wider(coding: CountsCoding, frame: Whole) -> _Wider:
    """Return the coding with the levels that new cells have."""
    made, old = [], coding.covariates.width
    mix, fresh = [torch.zeros(0, old)], [torch.zeros(0, dtype=torch.bool)]
    for each, span in coding.covariates.spans():
        wide = _with_new(each, frame, coding.names) if isinstance(each, Factor) else each
        made.append(wide)
        more = wide.width - each.width
        mix.append(torch.eye(old)[span])
        if isinstance(each, Factor):
            begun = torch.zeros(more, old)
            begun[:, span] = each.usual
            mix.append(begun)
        fresh.append(torch.arange(wide.width) >= each.width)
    wider = replace(coding, covariates=Context(tuple(made)))
    found = _Wider(wider, torch.cat(mix), torch.cat(fresh))
    if coding.profiles is None or not found.fresh.any():
        return found
    context = wider.encode(frame).rows.take(torch.arange(frame.rows)).context
    assert context is not None, "counts have a context"
    known = {profile.codes for profile in coding.profiles}
    more = [p for p in wider.with_profiles(context).profiles or () if p.codes not in known]
    return found._replace(coding=replace(wider, profiles=(*coding.profiles, *more)))


def _with_new(factor: Factor, frame: Whole, genes: tuple[str, ...]) -> Factor:
    """Return a factor with the levels of new cells behind its own."""
    found = Factor.of(factor.name, [Factor.look(annotation(frame, factor.name, genes), "")])
    words = list(found.levels)
    codes = Known(list(factor.levels), pa.string()).find(words, pa.string())
    new = {w: found.levels[w] for w, code in zip(words, codes, strict=True) if code < 0}
    few = {word: rows for word, rows in new.items() if rows < FEWEST}
    if few:
        word, rows = next(iter(few.items()))
        raise DataError(
            "E046",
            f"{frame.origin} has {rows} cells of the new level {word!r} of {factor.name}, and it "
            f"takes {FEWEST} at least to learn it",
            fix="leave these cells out, or embed without --adapt",
        )
    return replace(factor, levels={**factor.levels, **new})


def _trained(
    network: LatentModel,
    rows: Rows,
    parameters: list[nn.Parameter],
    fresh: Tensor,
    how: tuple[int, int],
) -> None:
    """Train the columns of new numbers of the context, in place."""
    steps, seed = how
    network.requires_grad_(False).eval()
    for each in parameters:
        each.requires_grad_(True)
    objective, source = Elbo(network), noise.generator("adapt", seed)
    optimiser = torch.optim.Adam(parameters, RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        index = torch.randint(len(rows), (min(BATCH, len(rows)),), generator=source)
        x, context = rows.take(index)
        optimiser.zero_grad()
        objective(x, step, noise.Stream(source), context).value.backward()
        for each in parameters:
            assert each.grad is not None
            # The gradient of all other columns is 0, and so is every step of Adam along them.
            kept = torch.zeros(each.shape[1], dtype=torch.bool)
            kept[: len(fresh)] = fresh
            each.grad[:, ~kept] = 0.0
        optimiser.step()
        schedule.step()
    network.requires_grad_(True)
