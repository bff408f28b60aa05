"""The checks of the doctor: of the computer, of a model, of a model on rows."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from lowerbound._version import __version__
from lowerbound.cli.commands.inspect import kind_of_units
from lowerbound.cli.inputs import walk_for
from lowerbound.cli.models import explain_flag, load
from lowerbound.cli.outputs import spell_bytes, spell_flags, spell_path, spell_use
from lowerbound.cli.result import Remarks, Result, Sheet
from lowerbound.coding.pictures import values_of
from lowerbound.files.data import Data, Whole
from lowerbound.files.stream import Stream
from lowerbound.tasks import doctor

_LIBRARIES = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "pyarrow",
    "narwhals",
    "pydantic",
    "cyclopts",
    "rich",
    "pandas",
    "polars",
    "optuna",
    "anndata",
)
_LITTLE_DISK = 200_000_000  # bytes
_LOOKED_AT = 100_000  # rows sampled from a table that is not in memory


def computer() -> Result:
    """Return versions, devices and free space, as a bug report needs them."""
    facts: dict[str, Any] = {
        "lowerbound": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "executable": sys.executable,
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "disk_free": shutil.disk_usage(Path.cwd()).free,
        "folder": str(Path.cwd()),
        "writable": _can_write(Path.cwd()),
        "temporary_writable": _can_write(None),
    }
    notes = []
    if not facts["writable"]:
        notes.append("this folder is not writable: choose an --out in another folder")
    if not facts["temporary_writable"]:
        notes.append("there is no writable temporary folder: set TMPDIR")
    if facts["disk_free"] < _LITTLE_DISK:
        notes.append(f"only {spell_bytes(facts['disk_free'])} of disk space are free")
    known = {name: version for name, version in facts["libraries"].items() if version}
    absent = [name for name, version in facts["libraries"].items() if not version]
    found = [
        ("lowerbound", facts["lowerbound"]),
        ("python", f"{facts['python']} on {facts['platform']}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in known.items())),
        ("not installed", ", ".join(absent)),
        ("device", ", ".join(facts["gpus"]) or "cpu (no GPU that torch can use)"),
        ("threads", f"{facts['threads']} of {facts['cpus']} processors"),
        ("disk", f"{spell_bytes(facts['disk_free'])} free in {facts['folder']}"),
        ("writing", "works" if facts["writable"] else "does NOT work here"),
    ]
    return Result(
        facts,
        lines=["OK: no problems found" if not notes else f"{len(notes)} possible problems"],
        notes=notes,
        sheet=Sheet(("", "found"), [row for row in found if row[1]]),
        next="lowerbound demo",
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _can_write(folder: Path | None) -> bool:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".lowerbound-") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    return True


def model(saved: Any) -> Result:
    """Return the verdict stored by the fit."""
    trained = load(saved)
    health, path = trained.facts.get("health", {}), spell_path(saved, "M.vae")
    return Result(
        {"health": health},
        lines=health.get("lines", ["no verdict is stored in this model"]),
        sheet=_levels(health.get("levels", ())),
        next=spell_use(trained.command, path, "")
        if trained.command
        else f"lowerbound doctor {path} {'NEW/' if trained.coding.shape else 'NEW.csv'}",
    )


def _levels(levels: Sequence[Mapping[str, Any]]) -> Sheet | None:
    """Return a table of the use of each level of a hierarchy, or None for a single level."""
    if len(levels) < 2:
        return None
    told = [
        (level["name"], f"{level['rate']:.2f}", f"{level['active']} of {level['latent']}")
        for level in levels
    ]
    return Sheet(("level", "nats per row", "in use"), told, "levels", right=("nats per row",))


def _sampled(given: Data) -> Whole:
    """Return rows to check a model on: all, or a random sample of a table not in memory."""
    return given.sample(_LOOKED_AT, 0) if isinstance(given, Stream) else given.whole()


def rows(saved: Any, data: Any, rename: Any, on_bad_file: str | None) -> Result:
    """Check a model on rows: drift of the rows, and use of the latents."""
    trained = load(saved)
    given = walk_for(trained, data, rename, on_bad_file)
    frame, coded = trained.encode(_sampled(given))
    values, options = values_of(trained.coding), trained.recipe.parameters
    health = doctor.examine(trained.model, coded.rows, coded.rows, values, options)
    scores = trained.score_coded(coded)
    p = trained.calibration.p_values(scores)
    flagged = float((scores > trained.alarm.threshold).mean())
    # Of two samples: with few calibration rows their p-values are far from uniform by chance.
    drift: Any = stats.ks_2samp(trained.calibration.scores, scores)
    allowed = (
        trained.alarm.high + 3 * (trained.alarm.high * (1 - trained.alarm.high) / len(p)) ** 0.5
    )
    shifted = flagged > allowed or (drift.pvalue < 1e-4 and drift.statistic > 0.1)
    remarks = Remarks.of(given, coded)
    if frame.rows < given.rows:
        remarks.notes[f"{frame.rows:,} of {given.rows:,} rows, drawn at random, were checked"] = (
            None
        )
    verdict = (
        "WARNING: these rows differ from those that the model was calibrated on: drift, other "
        f"units, or many anomalies (`lowerbound score{explain_flag(trained)}` shows the highest)"
        if shifted
        else "OK: these rows look like those that the model was calibrated on"
    )
    units = kind_of_units([vars(level) for level in health.levels])
    facts = {
        "rows": len(p),
        "flagged_share": flagged,
        "expected_rate": trained.alarm.rate,
        "drift": float(drift.statistic),
        "shifted": bool(shifted),
        "health": health.as_dict(),
        **remarks.facts,
    }
    return Result(
        facts,
        lines=[
            verdict,
            f"{flagged:.2%} of {len(p):,} rows are flagged, {trained.alarm.rate:.2%} were "
            f"expected; distance of the p-values from uniform {drift.statistic:.3f} (0 is none)",
            f"{health.active} of {health.latent} {units} in use on these rows, "
            f"{health.rate:.2f} nats per row",
            *(line for line in health.lines if line.startswith(("WARNING", "COLLAPSED"))),
        ],
        notes=remarks.lines,
        sheet=_levels(facts["health"]["levels"]),
        next=f"lowerbound score {spell_path(saved, 'M.vae')} {spell_path(data)} "
        f"--out scores.csv{explain_flag(trained)}"
        + spell_flags(rename=rename, on_bad_file=on_bad_file),
    )
