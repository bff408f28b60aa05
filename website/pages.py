"""Run the Python blocks of a page in one namespace, and show what they print and draw.

A page is plain Markdown that reads well without being run. After each block of Python, the built
page shows its output and its figures. A comment ``<!-- check: EXPRESSION -->`` states what the
text claims: it must be true after the blocks before it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

PART = re.compile(r"^```python\n(?P<code>.*?)^```$|^<!-- check: (?P<check>.*?) -->$", re.S | re.M)
INK, PALE = "#1d1d1f", "#e4e4e7"  # text and axes of a figure on a light and on a dark page
STYLE = {
    "figure.figsize": (6.4, 3.2),
    "figure.constrained_layout.use": True,
    "savefig.transparent": True,
    "svg.hashsalt": "lowerbound",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "image.cmap": "gray",
    "axes.prop_cycle": mpl.cycler(color=["#3b7dd8", "#e07b39", "#2a9d72", "#b04fc4", "#8a8a8a"]),
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}


class PageError(Exception):
    """A block of a page failed, or a claim of its text does not hold."""


@dataclass
class Shown:
    """A block of a page, or a claim, with what it did.

    Attributes:
        end: where the block ends in the text of the page.
        printed: what it printed.
        figures: the figures that it drew.
    """

    end: int
    printed: str = ""
    figures: list[Figure] = field(default_factory=list)


@contextmanager
def _figures() -> Iterator[None]:
    """Draw without a screen, in the style of the site; close all figures at the end."""
    mpl.use("agg")
    with mpl.rc_context(STYLE):
        try:
            yield
        finally:
            plt.close("all")


def run(page: Path) -> list[Shown]:
    """Run the Python blocks of a page, one after the other in one namespace.

    Args:
        page: the Markdown file.

    Returns:
        One entry for each block, in the order of the page.

    Raises:
        PageError: for a block that fails, and for a claim that does not hold.
    """
    text, names, shown = page.read_text("utf-8"), {}, []
    with _figures():
        for number, part in enumerate(PART.finditer(text), 1):
            if part["check"]:
                _claim(page, part["check"], names)
                continue
            printed = io.StringIO()
            try:
                with redirect_stdout(printed):
                    exec(compile(part["code"], f"{page.name}, part {number}", "exec"), names)
            except Exception as error:
                raise PageError(
                    f"{page.name}, part {number}: {error!r}\n{part['code']}"
                ) from error
            figures = [plt.figure(n) for n in plt.get_fignums()]
            for figure in figures:
                figure.canvas.draw()  # so that a figure that cannot be drawn fails here
            shown.append(Shown(part.end(), printed.getvalue(), figures))
            for figure in figures:
                plt.close(figure)
    return shown


def _claim(page: Path, claim: str, names: dict[str, Any]) -> None:
    """Raise `PageError` if an expression is not true in the namespace of a page."""
    try:
        holds = eval(claim, names)
    except Exception as error:
        raise PageError(
            f"{page.name}: the claim {claim!r} cannot be checked: {error!r}"
        ) from error
    if not holds:
        raise PageError(f"{page.name}: the claim {claim!r} does not hold")


def described(figure: Figure) -> str:
    """Return the alternative text of a figure: its titles and the labels of its first axes."""
    titles = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
    return "; ".join(dict.fromkeys(t.replace("\n", " ") for t in titles if t)) or "figure"


def rendered(page: Path, folder: Path, where: str) -> str:
    """Return the text of a page with the output and the figures of its blocks.

    Args:
        page: the Markdown file.
        folder: the folder that the figures are written to, each for light and for dark pages.
        where: the path of this folder from the built page.
    """
    text, done, parts = page.read_text("utf-8"), 0, []
    for number, each in enumerate(run(page), 1):
        parts.append(text[done : each.end])
        done = each.end
        if each.printed.strip():
            parts.append(f'\n\n```text title="Output"\n{each.printed.rstrip()}\n```')
        for index, figure in enumerate(each.figures):
            name = f"{page.stem}-{number}{'' if not index else f'-{index}'}"
            _write(figure, folder, name)
            told = described(figure)
            parts.append(
                f"\n\n![{told}]({where}/{name}.svg#only-light)"
                f"\n![{told}]({where}/{name}-dark.svg#only-dark)"
            )
    return "".join([*parts, text[done:]])


def _write(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as two SVG files: dark ink for light pages, pale ink for dark pages."""
    folder.mkdir(parents=True, exist_ok=True)
    written = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(written, format="svg", metadata={"Date": None})
    (folder / f"{name}.svg").write_text(written.getvalue(), "utf-8")
    (folder / f"{name}-dark.svg").write_text(written.getvalue().replace(INK, PALE), "utf-8")
