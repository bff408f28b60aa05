"""Optional libraries, imported on first use."""

from __future__ import annotations

import importlib
from typing import Any

from lowerbound.errors import ResourceError


def library(name: str, what: str, extra: str) -> Any:
    """Import an optional library.

    Args:
        name: name of the module.
        what: start of the error message: the feature and its verb, such as "searches need".
        extra: the extra of this package that installs the library.

    Returns:
        The module.

    Raises:
        ResourceError: E310 if the library is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ResourceError(
            "E310",
            f"{what} {name}, which is not installed",
            fix=f"pip install 'lowerbound[{extra}]'",
        ) from error
