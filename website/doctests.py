"""An extension of Griffe, which reads docstrings: examples become blocks of code."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^(?: *)>>> .*?(?=\n *\n|\Z)", re.DOTALL | re.MULTILINE)


class Doctests(griffe.Extension):
    """Fence the examples of docstrings, which stand in the text without a heading."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Return a docstring whose examples are fenced blocks."""
    return EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
