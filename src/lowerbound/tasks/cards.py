"""The model card: what a saved model is, in words, beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `lowerbound info` reads cards without torch
    from lowerbound.tasks.state import TrainedState


def reservations(objective: Mapping[str, Any] | None) -> list[str]:
    """Say what the ELBO of a model is worth that was not trained by a bound alone.

    Args:
        objective: the settings that it was trained with; models of 0.1.0 may not say.
    """
    weight = (objective or {}).get("adversarial")
    if not weight:
        return []
    return [
        f"trained with an adversarial term of weight {weight:g}, for sharper pictures: the ELBO "
        "is measured as for any model and is a lower bound, but it is not what was maximised"
    ]


def card(trained: TrainedState) -> str:
    """Return the model card, Markdown."""
    facts = trained.facts
    shape = trained.coding.shape
    columns = ", ".join(group.column for group in trained.coding.groups) if not shape else ""
    holds = f"pictures: {' x '.join(map(str, shape))}" if shape else f"columns: {columns}"
    reserved = "".join(f"- {line}\n" for line in reservations(facts.get("objective")))
    health = "\n".join(f"- {line}" for line in facts.get("health", {}).get("lines", []))
    return (
        f"# {trained.recipe.name} model\n\n"
        f"A variational autoencoder of the recipe `{trained.recipe.name}` with {trained.latent} "
        f"latent dimensions, made by lowerbound {facts.get('version', '')}.\n\n"
        f"- data: {facts.get('origin', '')}, {facts.get('rows', '?')} rows\n"
        f"- {holds}\n"
        f"- held-out ELBO: {facts.get('valid_elbo', float('nan')):.4f} nats per row (coded)\n"
        f"{reserved}"
        f"- threshold: {trained.alarm.threshold:.6g}, expected alarms "
        f"{trained.alarm.rate:.3%} ({trained.alarm.low:.3%} to {trained.alarm.high:.3%})\n\n"
        f"## Health\n\n{health}\n\n"
        "Scores are -log p(row) in nats; p-values hold for rows exchangeable with the held-out "
        "ones. A model describes the rows it was fitted on: do not expect it to be fair, causal "
        "or private beyond them.\n"
    )
