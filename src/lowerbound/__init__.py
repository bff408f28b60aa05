"""lowerbound: variational autoencoders with an honest likelihood.

Names are loaded when they are first used; importing the package computes nothing. Beside the
classes, every verb of the command line is a function here (``lowerbound.score`` and so on), but
for ``doctor``: that name is the module behind `lowerbound.verbs.health.doctor`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lowerbound._version import __version__ as __version__

if TYPE_CHECKING:
    from lowerbound.estimator import VAE as VAE
    from lowerbound.learning import learn as learn
    from lowerbound.plan import Plan as Plan
    from lowerbound.trained import Trained as Trained
    from lowerbound.verbs.exporting import export as export
    from lowerbound.verbs.fitting import fit as fit
    from lowerbound.verbs.looking import explain as explain
    from lowerbound.verbs.looking import info as info
    from lowerbound.verbs.looking import inspect as inspect
    from lowerbound.verbs.looking import verify as verify
    from lowerbound.verbs.making import impute as impute
    from lowerbound.verbs.making import sample as sample
    from lowerbound.verbs.measuring import evaluate as evaluate
    from lowerbound.verbs.papers import recipe as recipe
    from lowerbound.verbs.plotting import plot as plot
    from lowerbound.verbs.restoration import denoise as denoise
    from lowerbound.verbs.restoration import inpaint as inpaint
    from lowerbound.verbs.restoration import segment as segment
    from lowerbound.verbs.restoration import upscale as upscale
    from lowerbound.verbs.showing import demo as demo
    from lowerbound.verbs.tuning import tune as tune
    from lowerbound.verbs.using import embed as embed
    from lowerbound.verbs.using import reconstruct as reconstruct
    from lowerbound.verbs.using import score as score

_CLASSES = {"VAE": "estimator", "Plan": "plan", "learn": "learning", "Trained": "trained"}
__all__ = [
    "VAE",
    "Plan",
    "Trained",
    "__version__",
    "demo",
    "denoise",
    "embed",
    "evaluate",
    "explain",
    "export",
    "fit",
    "impute",
    "info",
    "inpaint",
    "inspect",
    "learn",
    "plot",
    "recipe",
    "reconstruct",
    "sample",
    "score",
    "segment",
    "tune",
    "upscale",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return getattr(import_module(f"lowerbound.{_CLASSES[name]}"), name)
    if name in __all__:
        return import_module("lowerbound.verbs").VERBS[name].load()
    raise AttributeError(f"module 'lowerbound' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
