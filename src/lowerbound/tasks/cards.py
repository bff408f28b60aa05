"""The model card: a description of a saved model in Markdown."""

from __future__ import annotations

from lowerbound.tasks.objective_settings import reservations, trained_by
from lowerbound.tasks.state import TrainedState


def card(trained: TrainedState) -> str:
    """Return the model card, Markdown."""
    facts = trained.facts
    objective = facts.get("objective")  # models of 0.1.0 may not have it
    trained_with = f"- trained by {trained_by(objective)}\n" if objective else ""
    shape = trained.coding.shape
    columns = ", ".join(group.column for group in trained.coding.groups) if not shape else ""
    holds = f"pictures: {' x '.join(map(str, shape))}" if shape else f"columns: {columns}"
    reserved = "".join(f"- {line}\n" for line in reservations(objective))
    doubt = f"- {trained.alarm_doubt}\n" if trained.alarm_doubt else ""
    health = "\n".join(f"- {line}" for line in facts.get("health", {}).get("lines", []))
    return (
        f"# {trained.recipe.name} model\n\n"
        f"A variational autoencoder of the recipe `{trained.recipe.name}` with {trained.latent} "
        f"latent dimensions, made by lowerbound {facts.get('version', '')}.\n\n"
        f"- data: {facts.get('origin', '')}, {facts.get('rows', '?')} rows\n"
        f"- {holds}\n"
        f"- held-out ELBO: {facts.get('valid_elbo', float('nan')):.4f} nats per row (coded)\n"
        f"{trained_with}{reserved}"
        f"- threshold: {trained.alarm.threshold:.6g}, expected alarms "
        f"{trained.alarm.rate:.3%} ({trained.alarm.low:.3%} to {trained.alarm.high:.3%})\n"
        f"{doubt}\n"
        f"## Health\n\n{health}\n\n"
        "Scores are -log p(row) in nats; p-values hold for rows exchangeable with the held-out "
        "ones. The model describes the distribution of the rows it was fitted on. It makes no "
        "claim of fairness, causality or privacy.\n"
    )
