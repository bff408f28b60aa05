"""lowerbound: variational autoencoders with an honest likelihood.

- `fit` and `load` return a `Model`, whose methods score, embed, sample, impute and more
- `VAE` is the scikit-learn estimator
- `Plan` is everything that is chosen for one fit; `Recipe` is a named model, ours or your own
- `lowerbound.nn` holds the parts to compose a variational autoencoder from
- `errors` are what can be caught

Names are loaded when they are first used: importing the package computes nothing. The rooms:

- nn/: parts to compose a model from
- columns/, files/, coding/: tables, matrices and pictures to rows of tensors
- recipes/: named models
- training/, tasks/: fit a model, and use it
- bundle/: the saved model
- estimator: the scikit-learn estimator
- cells: the same for an AnnData, whose results are written into it
- web/: pages about a model, and the model over HTTP
- cli/: the command line
- errors, catalogue: the errors, and the description of every code
- noise, optional, _version: random generators, optional libraries, the version
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lowerbound._version import __version__ as __version__

if TYPE_CHECKING:
    from lowerbound import errors as errors
    from lowerbound.estimator import VAE as VAE
    from lowerbound.recipes import Recipe as Recipe
    from lowerbound.tasks.trained import Model as Model
    from lowerbound.tasks.trained import load as load
    from lowerbound.training.fit import fit as fit
    from lowerbound.training.plan import Plan as Plan

_HOMES = {
    "VAE": "estimator",
    "Model": "tasks.trained",
    "Plan": "training.plan",
    "Recipe": "recipes",
    "fit": "training.fit",
    "load": "tasks.trained",
}
__all__ = ["VAE", "Model", "Plan", "Recipe", "__version__", "errors", "fit", "load"]

# Names of 0.1.0, and what to use in their place.
_METHODS = {
    **{name: name for name in ("score", "embed", "sample", "impute", "reconstruct", "evaluate")},
    **{name: "restore" for name in ("denoise", "upscale", "inpaint", "segment", "restore")},
}
_COMMANDS = ("demo", "explain", "export", "info", "inspect", "plot", "tune", "verify")
_FORMER = {
    "Trained": "lowerbound.Model",
    "learn": "lowerbound.fit(data, ...) or lowerbound.training.fit.learn(data, plan)",
    "recipe": "python -m reproductions, in a checkout",
    **{name: f"lowerbound.load(PATH).{method}(...)" for name, method in _METHODS.items()},
    **{name: f"the command `lowerbound {name}`" for name in _COMMANDS},
    "explain": "the command `lowerbound error CODE`",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"lowerbound.{_HOMES[name]}"), name)
    if name == "errors":
        return import_module("lowerbound.errors")
    if name in _FORMER:
        raise AttributeError(f"lowerbound.{name} is gone; use {_FORMER[name]}")
    raise AttributeError(f"module 'lowerbound' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
