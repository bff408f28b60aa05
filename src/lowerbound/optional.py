"""Libraries that only some uses need, imported when they are met."""

from __future__ import annotations

import importlib
from typing import Any

from lowerbound.errors import ResourceError


def library(name: str, what: str, extra: str) -> Any:
    """Return an optional library.

    Args:
        name: of the module.
        what: needs it, such as "searches need".
        extra: of this package, which brings it along.

    Raises:
        ResourceError: E310 where it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ResourceError(
            "E310",
            f"{what} {name}, which is not installed",
            fix=f"pip install 'lowerbound[{extra}]'",
        ) from error
