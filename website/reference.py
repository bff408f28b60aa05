"""Pages of the reference: docstrings, the help of the commands, the error codes, the measurements.

Each function returns Markdown; a line ``::: NAME`` is replaced by mkdocstrings with the docstring.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from unittest.mock import patch

from lowerbound import nn
from lowerbound.catalogue import CATALOGUE
from lowerbound.cli.main import main
from lowerbound.cli.verbs import EVERYWHERE, VERBS
from lowerbound.recipes import RECIPES

TOP = ("fit", "load", "Model", "VAE", "Plan", "Recipe", "errors")
ROOMS = {
    "model": "Models, levels and traces",
    "distributions": "Likelihoods and families",
    "latents": "Posteriors, priors, flows and codebooks",
    "objectives": "Objectives",
    "networks": "Networks",
}
CLASSES = {
    "E0": "data that cannot be used (exit code 3)",
    "E1": "model files (exit code 4)",
    "E2": "usage and configuration (exit code 2)",
    "E3": "resources (exit code 5)",
    "E4": "numbers (exit code 6)",
    "E5": "stopped, and can be resumed (exit code 7)",
    "E6": "checks that failed (exit code 8)",
}


def library() -> str:
    """Return the page of the names of `lowerbound`."""
    parts = ["# lowerbound", "", "What `import lowerbound` offers.", ""]
    for name in TOP:
        parts += [f"::: lowerbound.{name}", "    options:", "      heading_level: 2", ""]
    return "\n".join(
        [*parts, "::: lowerbound.cells", "    options:", "      heading_level: 2", ""]
    )


def room_of(name: str) -> str:
    """Return the part of `lowerbound.nn` that a name is in."""
    room = nn._HOMES[name].partition(".")[0]
    return "model" if room == "trace" else room


def parts_of(room: str) -> str:
    """Return the page of one part of `lowerbound.nn`."""
    about = import_module(f"lowerbound.nn.{room}").__doc__ or ""
    lines = [f"# {ROOMS[room]}", "", about.partition("\n")[0], ""]
    for name in sorted((n for n in nn.__all__ if room_of(n) == room), key=str.lower):
        lines += [f"::: lowerbound.nn.{name}", "    options:", "      heading_level: 2", ""]
    return "\n".join(lines)


def recipes() -> str:
    """Return the page of the recipes: the functions that compose the named models."""
    lines = [
        "# Recipes",
        "",
        "A recipe is a named model. Its function in `lowerbound.recipes` composes it, and its "
        "arguments are settings of a fit: `--set NAME=VALUE` or `settings={...}`. Which recipe "
        "suits which data is described in [settings](../settings.md#recipes).",
        "",
    ]
    for name, recipe in RECIPES.items():
        place = f"{recipe.build.__module__}.{recipe.build.__name__}"
        lines += [f"::: {place}", "    options:", "      heading_level: 2", ""]
        assert name == recipe.build.__name__, name
    return "\n".join(lines)


def helped(words: list[str]) -> str:
    """Return what a command prints at 80 columns, without colours."""
    written = io.StringIO()
    plain = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    with patch.dict("os.environ", plain), redirect_stdout(written):
        code = main(words)
    assert code == 0, f"lowerbound {' '.join(words)} ended with exit code {code}"
    return written.getvalue().strip("\n").removesuffix(EVERYWHERE).strip("\n")


def commands() -> str:
    """Return the page of the commands, with the help of each."""
    lines = [
        "# Commands",
        "",
        "What `lowerbound COMMAND --help` prints.",
        "",
        f"```text\n{EVERYWHERE}\n```",
        "",
    ]
    group = ""
    for name, verb in VERBS.items():
        if verb.group != group:
            group = verb.group
            lines += [f"## {group}", ""]
        lines += [
            f"### lowerbound {name}",
            "",
            f"{verb.summary[0].upper()}{verb.summary[1:]}.",
            "",
            f"```text\n{helped([name, '--help'])}\n```",
            "",
        ]
    return "\n".join(lines)


def error_codes() -> str:
    """Return the page of the error codes."""
    lines = [
        "# Error codes",
        "",
        "Every error has a code. `lowerbound error E031` prints the text of one code, "
        "`lowerbound error` lists all.",
        "",
    ]
    group = ""
    for code, entry in CATALOGUE.items():
        if code[:2] != group:
            group = code[:2]
            lines += [f"## {group}xx: {CLASSES[group]}", ""]
        lines += [f"### {code}", "", f"**{_safe(entry.title)}**", "", _safe(entry.explanation), ""]
    return "\n".join(lines)


def _safe(text: str) -> str:
    """Return plain text as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>$~^|])", r"\\\1", text)


def measured(readme: str) -> str:
    """Return the page of the measurements: the tables of the README."""
    found = re.search(r"^## What is measured\n(.*?)^## ", readme, re.S | re.M)
    assert found, "the README has no section 'What is measured'"
    text = re.sub(r"\]\(docs/", "](", found[1])
    return "# What is measured\n" + re.sub(r"\[([^\]]+)\]\(benchmarks[^)]*\)", r"`\1`", text)


def generated(readme: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of every generated page.

    Args:
        readme: the text of README.md.
    """
    yield "reference/lowerbound.md", library()
    for room in ROOMS:
        yield f"reference/nn-{room}.md", parts_of(room)
    yield "reference/recipes.md", recipes()
    yield "reference/commands.md", commands()
    yield "reference/errors.md", error_codes()
    yield "measured.md", measured(readme)
