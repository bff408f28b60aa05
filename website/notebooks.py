"""The guides as Jupyter notebooks: their text, their Python, and their commands as shell cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parent.parent
GUIDES = ("tables", "cells", "pictures", "production", "own-model")
DATA = {"tables": "tables", "production": "tables", "cells": "cells", "pictures": "pictures"}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = "lowerbound "


def notebook(guide: str, shorter: Callable[[str], str] = str) -> nbformat.NotebookNode:
    """Return a guide as a notebook that begins with small example data.

    Args:
        guide: the name of the page, without suffix.
        shorter: a change to each command, by which the tests make fits short.
    """
    cells = [
        new_markdown_cell(text) if kind == "text" else new_code_cell(text)
        for kind, text in _parts(guide, shorter)
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"{guide}-{number}"  # the same in every build
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return new_notebook(cells=cells, metadata=about)


def _parts(guide: str, shorter: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Yield the kind of each cell, "text" or "code", and its content."""
    page = (ROOT / "docs" / f"{guide}.md").read_text("utf-8")
    page = re.sub(r"<!--.*?-->\n?", "", page, flags=re.DOTALL)
    title, _, rest = page.partition("\n")
    yield "text", title
    if guide in DATA:  # the others make their data themselves
        data = ROOT / "website" / "notebook_data" / f"{DATA[guide]}.py"
        yield "code", data.read_text("utf-8").strip()
    text, done = "", 0
    for block in BLOCK.finditer(rest):
        text += rest[done : block.start()]
        done = block.end()
        code = _code(block[1], block[2], shorter)
        if not code:
            text += block[0]
            continue
        if text.strip():
            yield "text", text.strip()
        yield "code", code
        text = ""
    if (text + rest[done:]).strip():
        yield "text", (text + rest[done:]).strip()


def _code(language: str, code: str, shorter: Callable[[str], str]) -> str:
    """Return a block of a page as the code of a cell, or "" for what is not run."""
    if language == "python":
        return code.strip()
    lines = code.replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.startswith(COMMAND)]
    if language or not commands:
        return ""
    return "\n".join(["%%bash", "set -e", *map(shorter, commands)])


def write(folder: Path) -> None:
    """Write the notebooks of all guides into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for guide in GUIDES:
        nbformat.write(notebook(guide), folder / f"{guide}.ipynb")
