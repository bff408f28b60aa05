"""lowerbound: variational autoencoders with an honest likelihood.

Names are loaded when they are first used; importing the package computes nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lowerbound.estimator import VAE as VAE
    from lowerbound.learning import learn as learn
    from lowerbound.plan import Plan as Plan
    from lowerbound.trained import Trained as Trained

_HOME = {"VAE": "estimator", "Plan": "plan", "learn": "learning", "Trained": "trained"}

__all__ = ["VAE", "Plan", "Trained", "__version__", "learn"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lowerbound' has no attribute {name!r}")
    return getattr(import_module(f"lowerbound.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
