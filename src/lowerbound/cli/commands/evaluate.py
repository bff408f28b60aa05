"""The command evaluate: measure how well a model fits rows."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lowerbound.cli import parsing
from lowerbound.cli.flags import Data, Heard, ModelPath, Number, Policy, Renames
from lowerbound.cli.inputs import walk_for
from lowerbound.cli.models import load
from lowerbound.cli.outputs import Clock, spell_flags, spell_path, walked
from lowerbound.cli.progress import SILENT
from lowerbound.cli.result import Remarks, Result, Sheet
from lowerbound.errors import UsageError

LABELS = 30  # labels that are printed; --json has all


def _in_use(report: dict[str, Any]) -> tuple[str, str, str]:
    coded = "prior" in report
    what = "codes in use" if coded else "latent dimensions in use"
    return "active", f"{report['active_units']} of {report['latent']}", what


def _by_label(found: dict[str, Any]) -> Sheet | None:
    """Return the likelihood of the rows of each label."""
    rows = [(name, f"{each['rows']:,}", f"{each['iw_nll']:.4f}") for name, each in found.items()]
    heads = ("label", "rows", "IW-NLL")
    return Sheet(heads, rows[:LABELS], "rows of each label", right=heads[1:]) if rows else None


def evaluate(
    model: ModelPath,
    data: Data,
    /,
    *,
    samples: Number | None = None,
    ais: bool = False,
    rename: Renames = (),
    on_bad_file: Policy = None,
    voice: Heard = SILENT,
) -> Result:
    """Measure how well a model fits rows: the ELBO, and a tighter bound on log p(rows).

    All numbers are nats per row of the raw values; compare models by iw_nll, lower is better. For
    a model of the recipe autoencoder, measure decoded pictures (PSNR, dB) and bits per pixel.

    Examples:
        lowerbound evaluate fraud.vae held_out.csv
        lowerbound evaluate fraud.vae held_out.csv --samples 1000 --json
        lowerbound evaluate fraud.vae held_out.csv --ais

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows that training has not seen: a file, a folder or a "pattern*".
        samples: importance samples per row; more make the bound tighter. By default 128, fewer
            for deep networks, which would take hours.
        ais: also run annealed importance sampling on a few rows; slow, and nearly exact.
        rename: rename a column of the data to the name in the model; repeat it for more.
        on_bad_file: skip or fail, for unreadable pictures; by default up to 1 % are left out.
        voice: receives the progress.
    """
    draws = None if samples is None else parsing.at_least(samples, 1, "--samples")
    clock = Clock()
    trained = load(model)
    if trained.encodes:
        if samples is not None or ais:
            raise UsageError(
                "E236",
                "--samples and --ais do not apply to a model that encodes pictures: its pictures "
                "are decoded once",
                fix="leave them out",
            )
        work = import_module("lowerbound.cli.work.autoencode")
        return work.evaluate(model, trained, data, on_bad_file)
    given = walk_for(trained, data, rename, on_bad_file)
    evaluating, remarks = import_module("lowerbound.tasks.evaluate"), Remarks(given)
    evaluation = evaluating.Evaluation(trained, draws, ais)
    for frame, coded in walked(given, trained, voice):
        evaluation.add(coded, frame.classes)
        remarks.add(coded)
    report = evaluation.report()
    rows = [
        ("ELBO", f"{report['elbo']:.4f}", "a lower bound of log p(row); higher is better"),
        ("distortion", f"{report['distortion']:.4f}", "-log p(row | latents)"),
        ("rate", f"{report['rate']:.4f}", "KL divergence of posterior from prior"),
        (
            "IW-NLL",
            f"{report['iw_nll']:.4f} +- {report['iw_nll_standard_error']:.4f}",
            f"-log p(row) from {report['importance_samples']} samples; lower is better",
        ),
        _in_use(report),
    ]
    if "chain_nll" in report:
        value = f"{report['chain_nll']:.4f} +- {report['chain_nll_standard_error']:.4f}"
        rows.append(("chain NLL", value, "-log p(row) of the chain of columns"))
    if "bits_per_dimension" in report:
        named = f", with the prior {report['prior']}" if "prior" in report else ""
        told = f"-ELBO per value of a picture{named}"
        rows.append(("bits/dim", f"{report['bits_per_dimension']:.4f}", told))
    if ais:
        rows.append(("AIS", f"{report['ais_nll']:.4f}", f"on {report['ais_rows']} rows"))
    return Result(
        {**report, "seconds": clock(), **remarks.facts},
        lines=[f"{report['rows']:,} rows, {clock():.1f} s; nats per row of the raw values"],
        notes=remarks.lines,
        sheet=Sheet(("measure", "value", "meaning"), rows, right=("value",)),
        details=_by_label(report.get("labels", {})),
        next=f"lowerbound doctor {spell_path(model, 'M.vae')} {spell_path(data)}"
        + spell_flags(rename=rename, on_bad_file=on_bad_file),
    )
