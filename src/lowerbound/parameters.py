"""The estimator's parameters, checked and as the `Plan` that they stand for.

scikit-learn stores parameters as they were given and looks at them in `fit`, so that is where
wrong ones are refused; grids and searches give them as NumPy numbers.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from lowerbound.errors import UsageError
from lowerbound.plan import Plan

RandomState = int | np.random.RandomState | None


def plan_of(parameters: Mapping[str, Any]) -> Plan:
    """Return the plan of an estimator's parameters.

    Args:
        parameters: as ``VAE().get_params(deep=False)`` returns them.

    Raises:
        UsageError: E240 or E241, naming the parameter.
    """
    chosen = {name: _plain(value) for name, value in parameters.items()}
    for name, (fits, wanted) in _WANTED.items():
        if not fits(chosen[name]):
            message = f"{name} is {chosen[name]!r}, which is not {wanted}"
            raise UsageError("E240", message, fix=f"leave {name} away for its default")
    drop = chosen.pop("drop")
    return Plan(
        settings={name: _plain(v) for name, v in (chosen.pop("settings") or {}).items()},
        types=dict(chosen.pop("types") or {}),
        drop=(drop,) if isinstance(drop, str) else tuple(() if drop is None else drop),
        transform=chosen.pop("scaling"),
        seed=seed_of(chosen.pop("random_state")),
        **chosen,
    )


def _plain(value: Any) -> Any:
    """Return a NumPy number as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def seed_of(random_state: RandomState) -> int:
    """Return a seed: the number itself, a draw from a generator, fresh entropy for None.

    Raises:
        UsageError: E240 for anything else.
    """
    if random_state is None:
        return secrets.randbits(31)
    if isinstance(random_state, Integral):
        return int(random_state)
    try:
        return int(check_random_state(random_state).randint(2**31 - 1))
    except ValueError:
        raise UsageError(
            "E240",
            f"random_state is {random_state!r}, which is not a number, a RandomState or None",
            fix="random_state=0",
        ) from None


def _one_of(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types) and not isinstance(value, bool)


_NOTHING = type(None)
_WANTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "recipe": (_one_of(str), "the name of a recipe"),
    "preset": (_one_of(str), "the name of a preset"),
    "scaling": (_one_of(str), '"blend", "standard" or "quantile"'),
    "settings": (_one_of(_NOTHING, Mapping), "a dict"),
    "types": (_one_of(_NOTHING, Mapping), "a dict of columns and kinds"),
    "drop": (_one_of(_NOTHING, Sequence, np.ndarray), "a list of column names"),
    "latent": (_one_of(_NOTHING, str, Integral), 'a whole number, "auto" or None'),
    "alarm_rate": (_one_of(Real), "a number"),
    "max_epochs": (_one_of(_NOTHING, Integral), "a whole number or None"),
    "time_limit": (_one_of(_NOTHING, Real), "a number of seconds or None"),
    "learning_rate": (_one_of(_NOTHING, Real), "a number or None"),
    "device": (_one_of(_NOTHING, str), "the name of a device or None"),
}
