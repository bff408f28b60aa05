"""The model card: what a model is, what it was learned from, and what not to expect of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lowerbound.trained import Trained


def card(trained: Trained) -> str:
    """Return the model card, Markdown."""
    facts = trained.facts
    shape = trained.coding.shape
    columns = ", ".join(group.column for group in trained.coding.groups) if not shape else ""
    holds = f"pictures: {' x '.join(map(str, shape))}" if shape else f"columns: {columns}"
    health = "\n".join(f"- {line}" for line in facts.get("health", {}).get("lines", []))
    return (
        f"# {trained.recipe} model\n\n"
        f"A variational autoencoder of the recipe `{trained.recipe}` with {trained.latent} latent "
        f"dimensions, made by lowerbound {facts.get('version', '')}.\n\n"
        f"- data: {facts.get('origin', '')}, {facts.get('rows', '?')} rows\n"
        f"- {holds}\n"
        f"- held-out ELBO: {facts.get('valid_elbo', float('nan')):.4f} nats per row (coded)\n"
        f"- threshold: {trained.alarm.threshold:.6g}, expected alarms "
        f"{trained.alarm.rate:.3%} ({trained.alarm.low:.3%} to {trained.alarm.high:.3%})\n\n"
        f"## Health\n\n{health}\n\n"
        "Scores are -log p(row) in nats; p-values hold for rows exchangeable with the held-out "
        "ones. A model describes the rows it was fitted on: do not expect it to be fair, causal "
        "or private beyond them.\n"
    )
