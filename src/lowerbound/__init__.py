"""lowerbound: variational autoencoders with an honest likelihood.

Names are loaded when they are first used; importing the package computes nothing. Beside the
classes, every verb of the command line is a function here (``lowerbound.score`` and so on), but
for ``doctor``: that name is the module behind `lowerbound.cli.commands.doctor.doctor`.

- nn/: parts to compose a model from
- columns/, files/, coding/: tables, matrices and pictures to rows of tensors
- recipes/: named models
- training/, tasks/: fit a model, and use it
- bundle/: the saved model
- estimator: the scikit-learn estimator `VAE`
- cli/: the command line
- errors, catalogue: the errors, and the description of every code
- noise, optional, _version: random generators, optional libraries, the version
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lowerbound._version import __version__ as __version__

if TYPE_CHECKING:
    from lowerbound.cli.commands.demo import demo as demo
    from lowerbound.cli.commands.evaluate import evaluate as evaluate
    from lowerbound.cli.commands.export import export as export
    from lowerbound.cli.commands.fit import fit as fit
    from lowerbound.cli.commands.inspect import explain as explain
    from lowerbound.cli.commands.inspect import info as info
    from lowerbound.cli.commands.inspect import inspect as inspect
    from lowerbound.cli.commands.inspect import verify as verify
    from lowerbound.cli.commands.plot import plot as plot
    from lowerbound.cli.commands.restore import denoise as denoise
    from lowerbound.cli.commands.restore import inpaint as inpaint
    from lowerbound.cli.commands.restore import segment as segment
    from lowerbound.cli.commands.restore import upscale as upscale
    from lowerbound.cli.commands.sample import impute as impute
    from lowerbound.cli.commands.sample import sample as sample
    from lowerbound.cli.commands.score import embed as embed
    from lowerbound.cli.commands.score import reconstruct as reconstruct
    from lowerbound.cli.commands.score import score as score
    from lowerbound.cli.commands.tune import tune as tune
    from lowerbound.estimator import VAE as VAE
    from lowerbound.tasks.trained import Trained as Trained
    from lowerbound.training.fit import learn as learn
    from lowerbound.training.plan import Plan as Plan

_CLASSES = {
    "VAE": "estimator",
    "Plan": "training.plan",
    "learn": "training.fit",
    "Trained": "tasks.trained",
}
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
        return import_module("lowerbound.cli.verbs").VERBS[name].load()
    raise AttributeError(f"module 'lowerbound' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
