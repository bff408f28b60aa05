"""Fit the proposal of importance sampling to a trained model: whether, and by which settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lowerbound.nn.latents.importance import WIDEST
from lowerbound.nn.latents.posteriors import Plain
from lowerbound.nn.model import LatentModel, evaluating
from lowerbound.tasks.proposals import takes_few_values
from lowerbound.training.engine.settings import Budget, Optimiser
from lowerbound.training.plan import Plan, budget_of

FEWER = 4  # steps of the model's training for each step of the proposal's
TIME = 0.1  # share of the training time under a time limit
PATIENCE = 2
RATE, ANNEAL = 2e-3, 0.05


def is_wanted(plan: Plan, model: LatentModel, arguments: Mapping[str, Any]) -> bool:
    """Return whether a fit trains a proposal: for models of one level of few latents.

    Args:
        plan: the plan; the setting ``proposal=False`` leaves the proposal out.
        model: the trained model.
        arguments: the arguments of its recipe.
    """
    if "proposal" not in plan.recipe.parameters or not plan.settings.get("proposal", True):
        return False
    if len(model.levels) != 1 or arguments["latent"] > WIDEST:
        return False
    posterior = model.levels[0].get_submodule("posterior")
    if not (isinstance(posterior, Plain) and isinstance(posterior.conditional.net, nn.Linear)):
        return False
    with evaluating(model) as device, torch.no_grad():
        return not takes_few_values(model, device)  # those are scored by draws from the prior


def settings(plan: Plan, usual: Optimiser, seconds: float | None) -> tuple[Budget, Optimiser]:
    """Return the budget and the optimiser of the proposal's training.

    Args:
        plan: the plan.
        usual: the optimiser of the model's training.
        seconds: time for it; None for no limit.
    """
    whole = budget_of(plan)
    budget = replace(
        whole,
        seconds=seconds,
        patience=PATIENCE,
        epochs=max(1, whole.epochs // FEWER),
        steps=whole.steps // FEWER,
        most=None if whole.most is None else max(1, whole.most // FEWER),
    )
    return budget, replace(usual, learning_rate=RATE, anneal=ANNEAL)
