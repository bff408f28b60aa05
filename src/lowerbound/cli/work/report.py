"""The work of the verb report: read the rows, measure, write the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from lowerbound import bundle, optional
from lowerbound._version import __version__
from lowerbound.cli import parsing
from lowerbound.cli.inputs import walk_for
from lowerbound.cli.models import explain_flag, load
from lowerbound.cli.outputs import (
    Clock,
    check_apart,
    spell_bytes,
    spell_flags,
    spell_path,
    spell_use,
)
from lowerbound.cli.places import check_replaces_no_input
from lowerbound.cli.result import Result, left_out
from lowerbound.errors import ResourceError, UsageError
from lowerbound.files.data import Data
from lowerbound.files.pictures.bad_files import POLICIES
from lowerbound.files.write import atomic_write, check_place
from lowerbound.tasks import before_after
from lowerbound.tasks.trained import Model

_MOST = 5_000_000  # bytes of a page
_MOST_SHOWN = 10  # pictures before and after, which take most of a page


@dataclass(frozen=True)
class Order:
    """Settings of a report.

    Attributes:
        learned: the rows of the fit, or None.
        rows: number of rows to score at most, or None.
        seed: of all random choices.
        rename: THEIRS=OURS pairs.
        on_bad_file: skip or fail, for unreadable pictures, or None.
    """

    learned: Any
    rows: int | None
    seed: int
    rename: Mapping[str, str] | Sequence[str] = ()
    on_bad_file: str | None = None


def report(model: Any, data: Any, order: Order, out: str | None, overwrite: bool) -> Result:
    """Write the report and return what it found."""
    clock, target = Clock(), _target(out)
    for given in (data, order.learned):
        check_apart(target, given)
    target = check_place(target, overwrite)
    for given in (data, order.learned):
        check_replaces_no_input(target, given)
    optional.library("jinja2", "reports need", "report")
    page = import_module("lowerbound.web.report.page")
    trained = load(model)
    rows = None if data is None else _given(trained, data, order)
    measured = page.measure(trained, rows, learned=order.learned, rows=order.rows, seed=order.seed)
    made = {"command": _command(model, data, order, out), "report by": f"lowerbound {__version__}"}
    if isinstance(model, str | Path):
        made["digest of the model"] = f"sha256 {bundle.load(model).digest}"
    html = page.render(measured, made).encode("utf-8")
    if len(html) > _MOST:
        raise ResourceError(
            "E340",
            f"the page would have {spell_bytes(len(html))}, and at most {spell_bytes(_MOST)} are "
            "readable on a phone",
            fix="report on fewer rows: -n 1000",
        )

    def write(file: BinaryIO) -> None:
        file.write(html)

    written = atomic_write(target, write, overwrite, need=len(html))
    told = page.words.verdict(measured)
    facts = {
        "verdict": told["state"],
        "health": trained.facts.get("health", {}).get("verdict"),
        "rows": measured.total,
        "scored": 0 if measured.scored is None else measured.scored.num_rows,
        "bytes": len(html),
        "skipped": measured.skipped,
        "seconds": clock(),
        **left_out(rows),
    }
    lines = [told["headline"]]
    if measured.scored is not None:
        scored = measured.scored
        facts["flagged"] = int(scored["is_anomaly"].to_numpy().sum())
        lines += [page.words.unusual(measured), page.words.looked_at(measured)]
        if measured.drift is not None:
            facts["drift"] = measured.drift["scores"]["drift"]
            lines.append(page.words.drift(measured))
    if measured.examples is not None:
        facts["shown"] = len(measured.examples.shown)
        lines.append(page.words.restored(measured))
    lines.append(f"{spell_bytes(len(html))}, {clock():.1f} s; open it in a browser")
    named = f"{spell_path(model, 'M.vae')} {spell_path(data)}"
    flags = spell_flags(rename=order.rename, on_bad_file=order.on_bad_file)
    return Result(
        facts,
        lines=lines,
        notes=[] if rows is None else list(rows.notes),
        path=written,
        next=f"lowerbound report {spell_path(model, 'M.vae')} NEW --out {target.name} --overwrite"
        if data is None
        else spell_use(trained.command, spell_path(model, "M.vae"), "")
        if trained.command
        else f"lowerbound score {named} --out scores.csv{explain_flag(trained)}{flags}",
    )


def _given(trained: Model, data: Any, order: Order) -> Data | before_after.Examples:
    """Return the rows; of a model that restores or encodes pictures, some before and after."""
    if not trained.command:
        return walk_for(trained, data, order.rename, order.on_bad_file)
    policy = order.on_bad_file or POLICIES[0]
    parsing.one_of(policy, POLICIES, "--on-bad-file")
    count = {} if order.rows is None else {"count": min(order.rows, _MOST_SHOWN)}
    return before_after.examples(trained, data, seed=order.seed, on_bad_file=policy, **count)


def _target(out: str | None) -> Path:
    if out is None:
        raise UsageError("E232", "report needs --out", fix="--out report.html")
    target = Path(out)
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            "E222",
            f"the page is written as HTML, so --out must end in .html, got {target.name!r}",
            fix=f"--out {target.with_suffix('.html')}",
        )
    return target


def _command(model: Any, data: Any, order: Order, out: str | None) -> str:
    """Return the command that makes this report."""
    words = ["lowerbound report", spell_path(model, "M.vae")]
    if data is not None:
        words.append(spell_path(data, "DATA"))
    flags = spell_flags(
        out=out,
        learned=None if order.learned is None else spell_path(order.learned, "LEARNED"),
        rename=order.rename,
        on_bad_file=order.on_bad_file,
    )
    count = "" if order.rows is None else f" -n {order.rows}"
    seed = "" if not order.seed else f" --seed {order.seed}"
    return " ".join(words) + count + flags + seed
