"""Models that come with the library, used by their names in place of a path."""

from __future__ import annotations

from pathlib import Path

MODELS = Path(__file__).parent / "models"
ENDING = ".vae"


def shipped() -> list[str]:
    """Return the names of the models that come with the library."""
    if not MODELS.is_dir():
        return []
    return sorted(each.stem for each in MODELS.iterdir() if each.suffix == ENDING)


def shipped_for(recipe: str) -> list[str]:
    """Return the names of those of a recipe, with which their names end."""
    return [name for name in shipped() if name.endswith(f"-{recipe}")]


def shipped_at(name: str) -> Path | None:
    """Return the folder of the model with a name, or None if there is none."""
    return MODELS / (name + ENDING) if name in shipped() else None
