"""Copy the measured numbers into README.md and the pages in docs.

    python benchmarks/readme_tables.py           # write
    python benchmarks/readme_tables.py --check   # exit 1 where a page is out of date

The text between the two marks of a page is replaced; every number in it comes from a JSON in
benchmarks/results or reproductions/results. If a JSON is missing, the page names the command that
makes it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import standings
from cells_page import PARTS as CELLS
from claims_page import claims
from performance_page import (
    commands_table,
    compiled_table,
    latency_table,
    profile_table,
    scoring_table,
    switches_table,
    throughput_tables,
)
from pictures_page import PARTS as PICTURES
from reproductions.page import EXPERIMENTS, experiment_table
from scaling_page import PARTS as SCALING
from speed_goals import goals_table
from web_page import reports_table, serving_table

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
OURS = {"ours": "**lowerbound**", "lowerbound": "**lowerbound**"}
FAR = 3.0  # AUROC x 100
PROTOCOLS = {"paper": "DTE paper's split", "clean": "clean split"}

Document = Mapping[str, Any]
Row = Sequence[str]


def table(head: Row, rows: Iterable[Row]) -> str:
    """Return a Markdown table: the first column to the left, numbers to the right."""
    rule = [":---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def label(method: str) -> str:
    return OURS.get(method, method)


def listed(names: Sequence[str]) -> str:
    """Join names by commas and "and"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def source(name: str, document: Document) -> str:
    """Name the JSON and the versions that made it."""
    versions = document.get("versions") or document["environment"]
    made_by = f"lowerbound {versions['lowerbound']}, torch {versions['torch']}"
    return f"Numbers: `benchmarks/results/{name}.json` ({made_by})."


# The anomaly benchmark.


def lead(values: Mapping[str, float], unit: str = "") -> str:
    """Describe the distance of ours to the best other method; higher values are better."""
    others = {method: value for method, value in values.items() if method != "ours"}
    best = max(others, key=others.__getitem__)
    gap = round(values["ours"], 2) - round(others[best], 2)
    if round(gap, 2) == 0:
        return f"level with {best}, the best other method{unit}"
    return f"{abs(gap):.2f} {'above' if gap > 0 else 'below'} {best}, the best other method{unit}"


def wins(cells: Mapping[str, Mapping[str, Document]]) -> int:
    """Count the tables on which no other method has a higher AUROC."""
    return sum(
        row["ours"]["auroc"] >= max(other["auroc"] for other in row.values())
        for row in cells.values()
    )


def standing(protocol: str, result: Document) -> str:
    """Compare ours with the others in one sentence, whatever the result."""
    means = {method: mean["auroc"] for method, mean in result["means"].items()}
    if "ours" not in means or len(means) == 1:
        return ""
    count = len(result["tables"])
    return (
        f"On the {PROTOCOLS[protocol]}, lowerbound's mean is {lead(means)}; on "
        f"{wins(result['tables'])} of {counted(count, 'table')} no method is better."
    )


def used(protocols: Mapping[str, Document]) -> str:
    """Describe the number of tables and seeds of each protocol."""
    told = {
        protocol: f"{counted(len(result['tables']), 'table')}, "
        f"{counted(len(result['seeds']), 'seed')}"
        for protocol, result in protocols.items()
    }
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return "; ".join(f"{PROTOCOLS[protocol]}: {what}" for protocol, what in told.items())


def anomaly_means(document: Document) -> str:
    """Return the mean AUROC of each method, best first, and a sentence for each split."""
    protocols = document["protocols"]
    methods = {m: None for result in protocols.values() for m in result["means"]}
    first = next(iter(protocols.values()))["means"]
    order = sorted(methods, key=lambda m: -first.get(m, {"auroc": 0.0})["auroc"])
    ranks = {protocol: standings.ranks(result["tables"]) for protocol, result in protocols.items()}
    rows = [
        [label(method)]
        + [
            text
            for protocol, result in protocols.items()
            for text in (
                [f"{result['means'][method]['auroc']:.2f}", f"{ranks[protocol][method]:.1f}"]
                if method in result["means"]
                else ["", ""]
            )
        ]
        for method in order
    ]
    head = [text for each in protocols for text in (PROTOCOLS[each], "mean rank")]
    says = [standing(protocol, result) for protocol, result in protocols.items()]
    return "\n\n".join(
        part
        for part in [
            f"Mean AUROC x 100, {used(protocols)}; one configuration for all tables, trained on "
            "normal rows only:",
            table(["method", *head], rows),
            " ".join(filter(None, says)),
            *(one_by_one(protocol, result) for protocol, result in protocols.items()),
        ]
        if part
    )


def one_by_one(protocol: str, result: Document) -> str:
    """Return wins and losses against each other method, and where ours is far behind."""
    cells = result["tables"]
    if "ours" not in result["means"] or len(result["means"]) == 1:
        return ""
    rows = [
        [
            method,
            f"{found.wins} / {found.losses}",
            f"{found.mean:+.2f}",
            f"{found.worst[0]} {found.worst[1]:+.1f}",
        ]
        for method, found in standings.against(cells).items()
    ]
    near = [m for m in result["means"] if m.startswith("KNN")]
    far = {name: gap for m in near for name, gap in standings.behind(cells, m, FAR).items()}
    worst = [f"{name} ({gap:.1f})" for name, gap in sorted(far.items(), key=lambda each: each[1])]
    told = (
        f"It is more than {FAR:g} points behind a nearest-neighbour score on "
        f"{counted(len(worst), 'table')}: {listed(worst)}."
        if worst
        else f"On no table is it more than {FAR:g} points behind a nearest-neighbour score."
    )
    return "\n\n".join(
        [
            f"lowerbound against each of them, {PROTOCOLS[protocol]}: tables won and lost by more "
            f"than {standings.LEVEL:g} points, the mean difference, and the largest loss (or the "
            f"smallest win). {told if near else ''}".strip(),
            table(["against", "won / lost", "mean", "least"], rows),
        ]
    )


def anomaly_cell(cell: Document) -> str:
    spread = cell["auroc_sd"]
    return f"{cell['auroc']:.1f}" + (f" ± {spread:.1f}" if spread is not None else "")


def anomaly_tables(document: Document) -> str:
    """Return one table per protocol with every data set and method."""
    parts = []
    for protocol, result in document["protocols"].items():
        methods = list(result["means"])
        rows = [
            [name, *(anomaly_cell(cells[method]) for method in methods), _best(result, name)]
            for name, cells in result["tables"].items()
        ]
        means = [f"{result['means'][m]['auroc']:.2f}" for m in methods]
        rows.append(["**mean**", *means, ""])
        parts += [
            f"## The {PROTOCOLS[protocol]}",
            f"AUROC x 100, mean ± standard deviation over {counted(len(result['seeds']), 'seed')};"
            " without ± if neither the split nor the method is random.",
            table(["table", *map(label, methods), "best other"], rows),
            harness(result),
        ]
    return "\n\n".join(filter(None, [*parts, source("anomaly_auroc", document)]))


def _best(result: Document, name: str) -> str:
    """Return the best other method on a table, and how far ours is above it."""
    best = standings.best_other(result["tables"], name)
    own = result["tables"][name].get("ours")
    if best is None or own is None:
        return ""
    return f"{best[0]} ({own['auroc'] - best[1]:+.1f})"


def harness(result: Document) -> str:
    """Compare our nearest-neighbour scores with the published ones, if that was checked."""
    check = result.get("harness_check")
    if check is None:
        return ""
    off = [name for name, d in check["differences"].items() if abs(d) > check["tolerance"]]
    return (
        "The harness against the publication: KNN "
        + (f"differs by more than {check['tolerance']} on {listed(off)}" if off else "agrees")
        + f" on {counted(len(check['differences']), 'table')} that are not resampled"
        + ("." if off else f", within {check['tolerance']}.")
    )


# Drawn rows, card fraud, killed trainings.


def drawn(document: Document) -> str:
    """Return how well drawn rows can be told from real ones, table by table."""
    groups: dict[tuple[str, str], list[Document]] = {}
    for run in document["runs"]:
        groups.setdefault((run["table"], run["model"]), []).append(run)

    def mean(runs: Sequence[Document], name: str, form: str) -> str:
        told = [run[name] for run in runs if name in run]
        return format(fmean(told), form) if told else ""

    rows = [
        [
            name,
            label(model),
            mean(runs, "c2st_learned", ".3f"),
            mean(runs, "c2st_unseen", ".3f"),
            mean(runs, "impossible", ".2%"),
            mean(runs, "dcr_share", ".3f"),
            f"{mean(runs, 'utility', '.3f')} {runs[0]['utility_measure']}",
            _seconds(runs),
            str(len(runs)),
        ]
        for (name, model), runs in groups.items()
    ]
    head = ["table", "rows of", "C2ST, learned", "C2ST, unseen", "impossible", "DCR share"]
    return "\n\n".join(
        [
            f"Can drawn rows be told from real ones ({document['data']})? The C2ST score of "
            "XGBoost is 1 if it cannot tell drawn rows from the learned half, or from the "
            "unseen half, and 0 if it always can. Impossible are rows with two levels that never "
            "occur together though 10 rows or more would be expected. The DCR share is 0.5 if "
            "drawn rows are as near to unseen rows as to learned ones. Utility is that of XGBoost "
            "on the unseen half after learning from the rows of the line:",
            table([*head, "utility", "fit, s", "seeds"], rows),
            _published(document["published"]),
            source("synthetic_tables", document),
        ]
    )


def _published(found: Document) -> str:
    """Return what others report of one of the tables."""
    told = listed([f"{name} {value:.3f}" for name, value in found["c2st"].items()])
    return f"Published C2ST of {found['table']}: {told} ([{found['paper']}]({found['address']}))."


def _seconds(runs: Sequence[Document]) -> str:
    told = [run["fit_seconds"] for run in runs if "fit_seconds" in run]
    return f"{fmean(told):,.0f}" if told else ""


def creditcard(document: Document) -> str:
    """Return AUROC, average precision and times on the card transactions."""
    results = document["results"]
    rows = [
        [
            label(name),
            f"{result['auroc']:.4f}",
            f"{result['average_precision']:.3f}",
            f"{result['fit_seconds']:,.0f}",
            f"{result['score_seconds']:,.0f}",
        ]
        for name, result in results.items()
    ]
    head = ["method", "AUROC", "average precision", "fit, s", "score, s"]
    return "\n\n".join(
        [
            f"Card fraud, learned without labels from {document['fit']['rows']:,} genuine "
            f"transactions, one seed ({counted(document['environment']['threads'], 'thread')} for "
            "lowerbound, all cores for IsolationForest):",
            table(head, rows),
            source("creditcard", document),
        ]
    )


def kills(document: Document) -> str:
    """Return the results of trainings that were killed and repeated."""
    where = {
        "memory": "an array in memory",
        "compiled": "an array in memory, with compiled steps",
        "disk": "`lowerbound fit tx.parquet`",
        "stream": "the same, read part by part",
        "ranks": "the same with two processes, one of them killed",
    }
    rows = [
        [
            where[run["kind"]],
            *(f"{run['killed'][when]}" for when in ("in commits", "at random moments")),
            f"{run['commits_lost']}",
            f"{run['runs_with_identical_result']} of {run['runs']}",
        ]
        for run in document["runs"]
    ]
    head = ["fit of", "killed while committing", "killed at a random moment", "commits lost"]
    return "\n\n".join(
        [
            "Trainings killed with SIGKILL and repeated until they finished; a result is "
            "identical "
            "if every byte of the weights equals that of an undisturbed training:",
            table([*head, "identical results"], rows),
            f"Numbers: `benchmarks/results/kills.json` (`{document['command']}`).",
        ]
    )


# How the defaults were chosen.


def anomaly_choice(document: Document) -> str:
    """Return the mean of each candidate, and the result of choosing on the other tables."""
    votes = document["votes"]
    rows = [
        [name, f"{mean:.2f}", str(votes.get(name, 0))] for name, mean in document["means"].items()
    ]
    count = len(document["left_out"])
    return "\n\n".join(
        [
            f"Mean AUROC x 100 on the clean split of {counted(count, 'table')}, "
            f"{counted(len(document['seeds']), 'seed')}; the last column counts the tables for "
            "which the *other* tables choose the candidate:",
            table(["candidate", "mean AUROC", "chosen for"], rows),
            f"Measured on the tables left out, this way of choosing gives "
            f"{document['left_out_mean']:.2f}.",
            source("anomaly_choice", document),
        ]
    )


def bound_choice(document: Document) -> str:
    """Return the ELBO against the importance-weighted bound for a large table."""
    rows = [
        [
            run["candidate"],
            f"{run['model_bound']:.3f}",
            f"{run['model_seconds']:,.0f}",
            f"{run['chain_bound']:.3f}",
            f"{run['chain_seconds']:,.0f}",
            f"{run['seconds']:,.0f}",
        ]
        for run in document["runs"]
    ]
    head = ["objective", "model, nats", "model, s", "chain, nats", "chain, s", "whole fit, s"]
    return "\n\n".join(
        [
            "Rows are drawn from a chain of columns that does not depend on the VAE's bound, and "
            "the VAE learns by the ELBO, with the usual patience, for tables of any size. Adult, "
            f"all {document['rows']:,} rows; nats are held-out bounds of coded rows, the higher "
            "the better:",
            table(head, rows),
            source("bound_choice", document),
        ]
    )


MEASURES = {"rmse": "RMSE, sd", "accuracy": "accuracy", "crps": "CRPS, sd", "coverage": "coverage"}


def by_method_of(runs: list[Document]) -> dict[str, list[Document]]:
    """Return the runs of each method."""
    found: dict[str, list[Document]] = {}
    for run in runs:
        found.setdefault(run["method"], []).append(run)
    return found


def imputed(by_method: dict[str, list[Document]], ranks: Document) -> str:
    """Return the measures and the mean ranks of methods of imputation, as a table."""
    rows = []
    for method, runs in by_method.items():
        means = [[r[m] for r in runs if m in r] for m in MEASURES]
        own = [ranks[m].get(method) for m in ("rmse", "accuracy", "crps")]
        rows.append(
            [
                label("lowerbound") if method == "ours" else method,
                *(f"{fmean(told):.3f}" if told else "" for told in means),
                *("" if rank is None else f"{rank:.2f}" for rank in own),
            ]
        )
    head = ["method", *MEASURES.values(), "rank, RMSE", "rank, accuracy", "rank, CRPS"]
    return table(head, rows)


def imputation(document: Document) -> str:
    """Return how close filled-in values are to the hidden ones, for all methods."""
    by_cell: dict[tuple[Any, ...], list[Document]] = {}
    for run in document["runs"]:
        cell = tuple(run[name] for name in ("table", "mechanism", "share", "seed"))
        by_cell.setdefault(cell, []).append(run)
    most = max(map(len, by_cell.values()))
    whole = {cell: runs for cell, runs in by_cell.items() if len(runs) == most}
    failed = [run for runs in whole.values() for run in runs if "failed" in run]
    lost = {tuple(run[name] for name in ("table", "mechanism", "share", "seed")) for run in failed}
    common = {cell: runs for cell, runs in whole.items() if cell not in lost}
    left_out = "".join(
        f" {method} fails on {counted(sum(run['method'] == method for run in failed), 'cell')} "
        f"of {listed(list(dict.fromkeys(r['table'] for r in failed if r['method'] == method)))}, "
        "which no mean counts."
        for method in dict.fromkeys(run["method"] for run in failed)
    )
    by_method = by_method_of([run for runs in common.values() for run in runs])
    tables = list(dict.fromkeys(cell[0] for cell in common))
    fast = document["mean_ranks_without_peers"]
    several = [run for run in document["runs"] if run["method"] in fast["rmse"]]
    names = dict.fromkeys(run["table"] for run in several)
    seeds = {name: {r["seed"] for r in several if r["table"] == name} for name in names}
    every = {(r["table"], r["mechanism"], r["share"], r["seed"]) for r in several}
    return "\n\n".join(
        [
            f"How close filled-in values are to hidden ones: {listed(tables)}, with 10 and 30 % "
            "of the cells hidden, completely at random and depending on other columns "
            f"({counted(len(common), 'cell')} of table, mechanism, share and seed). Numbers are "
            "in standard deviations of their columns; CRPS is that of draws, and of the one value "
            "of methods without any; coverage is that of 90 % intervals of 50 draws. Ranks are "
            f"means over the cells, 1 is best.{left_out}",
            imputed(by_method, document["mean_ranks"]),
            f"The same without the two slowest methods, for {listed(list(seeds))} "
            f"({counted(len(every), 'cell')}; "
            + ", ".join(f"{name}: {counted(len(some), 'seed')}" for name, some in seeds.items())
            + "):",
            imputed(by_method_of(several), fast),
            source("imputation", document),
        ]
    )


def rows_with_gaps(document: Document) -> str:
    """Return the coverage of intervals of imputed values, beside that of exact draws."""
    setting = document["setting"]
    rows = [
        [
            *name.split(", ", 2)[:2],
            name.split("gaps: ")[1],
            f"{found['coverage of 60 draws']:.1%}",
            f"{found['coverage of 60 exact draws']:.1%}",
            f"{found['slope error']:+.1%}",
        ]
        for name, found in document["results"].items()
    ]
    head = ["recipe", "preset", "gaps in training", "coverage", "of exact draws", "error of slope"]
    return "\n\n".join(
        [
            f"Models of two dependent columns and {setting['training']:,} rows fill in one column "
            f"of {setting['imputed']:,} new rows from the other, "
            f"{counted(setting['seeds'], 'seed')}. The coverage is the share of the true values "
            "in the 90 % intervals of 60 draws; beside it stands the coverage of as many draws "
            "from the source itself, which differs from 90 % since the draws are few and counts "
            "are whole. The last column compares the slope of the imputed mean with the true one:",
            table(head, rows),
            source("rows_with_gaps", document),
        ]
    )


def gaps_choice(document: Document) -> str:
    """Return what the bounds leave unlearned of complete rows, by the share of missing values."""
    results = document["results"]
    bounds = list(next(iter(next(iter(results.values())).values())))

    def mean(found: Document) -> str:
        return f"{sum(run['excess'] for run in found.values()) / len(found):.3f}"

    rows = [
        [columns, share, *(mean(found[bound]) for bound in bounds)]
        for columns, shares in results.items()
        for share, found in shares.items()
    ]
    first = next(iter(next(iter(results.values())).values()))
    seeds = counted(len(first[bounds[0]]), "seed")
    return "\n\n".join(
        [
            f"{document['setting']['rows']:,} rows of dependent columns, a share of their values "
            f"missing, preset *{document['setting']['preset']}*, {seeds}. The numbers are the "
            "mean of -log p of complete fresh rows, above that of the source (nats). The ELBO "
            "of a row with few observed values is closest to log p if z has little influence, so "
            "many such rows make the columns less dependent than they are. With more "
            "than 20 % of the values missing, the recipe `table` therefore uses *iwae 4*; with "
            "fewer, the choice is that of the tables above.",
            table(["columns", "missing", *bounds], rows),
            source("gaps_choice", document),
        ]
    )


# Alarms.


def alarms(document: Document) -> str:
    """Return stated and flagged shares of fresh rows, and a test of the p-values, by kind."""
    results, setting = document["results"], document["setting"]
    rows = []
    for kind, result in results.items():
        told = result["summary"]
        rates = [
            f"{each['stated']:.2%} / {each['flagged']:.2%} ({each['errors_off']:+.1f})"
            for each in told["rates"].values()
        ]
        rows.append([kind, str(told["fits"]), *rates, f"{told['uniform']:.2f}"])
    asked = next(iter(results.values()))["summary"]["rates"]
    heads = [f"rate {float(rate):.0%}" for rate in asked]
    sizes = listed([f"{size:,}" for size in setting["sizes"]])
    return "\n\n".join(
        [
            f"Shares of {setting['fresh']:,} fresh rows, means of several fits of each "
            f"kind of table, to {sizes} rows in turn: stated / flagged, and in brackets their "
            "difference in standard errors. The last column is the p-value of a test that the "
            "p-values of fresh rows are uniform, with ties spread at random:",
            table(["kind of table", "fits", *heads, "uniform"], rows),
            source("alarm_rates", document),
        ]
    )


# Pages.

Found = Callable[[str], Document | None]  # the content of a JSON by its name, None if absent
Part = tuple[str, str, Callable[[Document], str]]  # heading, name of the JSON, what to write


def command(name: str) -> str:
    """Name the command that makes a JSON."""
    if name in EXPERIMENTS:
        made_by = f"python -m reproductions run {name}"
    else:
        made_by = f"python benchmarks/{name}.py"
    return f"Not measured yet: `LOWERBOUND_DATA=folder {made_by}`, then `make docs`."


def of_parts(*parts: Part) -> Callable[[Found], str]:
    """Return a function that writes a page of parts, each from a JSON of its own."""

    def write(found: Found) -> str:
        written = []
        for heading, name, told in parts:
            document = found(name)
            text = command(name) if document is None else told(document)
            written += [heading, text] if heading else [text]
        return "\n\n".join(written)

    return write


_SPEED = of_parts(
    ("## Scores", "scoring", scoring_table),
    ("## Compiled steps", "compiled_steps", compiled_table),
    ("## Against others", "throughput", throughput_tables),
    ("## Where a step goes", "step_profile", profile_table),
    ("## Does any of it cost likelihood?", "switches", switches_table),
    ("## One row at a time", "export_latency", latency_table),
    ("## Reports", "reports", reports_table),
)

PAGES: dict[str, Callable[[Found], str]] = {
    "README.md": lambda found: claims(found, command),
    "docs/tables.md": of_parts(
        ("### Drawn rows", "synthetic_tables", drawn),
        ("### Card fraud", "creditcard", creditcard),
        ("### Missing values", "rows_with_gaps", rows_with_gaps),
        ("### Filled-in values", "imputation", imputation),
    ),
    "docs/production.md": of_parts(("## Killed and resumed", "kills", kills)),
    "docs/serving.md": of_parts(("## Measured", "serving", serving_table)),
    "docs/anomaly.md": of_parts(
        ("## All tables", "anomaly_auroc", anomaly_means), ("", "anomaly_auroc", anomaly_tables)
    ),
    "docs/defaults.md": of_parts(
        ("## Tables up to 10,000 rows", "anomaly_choice", anomaly_choice),
        ("## The bound of larger tables", "bound_choice", bound_choice),
        ("## Tables with many missing values", "gaps_choice", gaps_choice),
    ),
    "docs/reproductions.md": of_parts(*((f"## {n}", n, experiment_table) for n in EXPERIMENTS)),
    "docs/pictures.md": of_parts(*PICTURES),
    "docs/cells.md": of_parts(*CELLS),
    "docs/scores.md": of_parts(("", "alarm_rates", alarms)),
    "docs/scaling.md": of_parts(*SCALING),
    "docs/performance.md": lambda found: "\n\n".join(
        [
            of_parts(("## Whole commands", "whole_commands", commands_table))(found),
            "## Goals",
            goals_table(found),
            _SPEED(found),
        ]
    ),
}


def results(root: Path) -> Found:
    """Return a function that reads a JSON in benchmarks/results or reproductions/results."""

    def found(name: str) -> Document | None:
        made_in = "reproductions" if name in EXPERIMENTS else "benchmarks"
        file = root / made_in / "results" / f"{name}.json"
        return json.loads(file.read_text("utf-8")) if file.exists() else None

    return found


def filled(page: str, content: str, name: str) -> str:
    """Return the page with `content` between its marks."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise SystemExit(f"{name}: {BEGIN} and {END} must stand there once each")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages, or check them, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of README.md")
    options = parser.parse_args(argv)
    old = {name: (options.root / name).read_text("utf-8") for name in PAGES}
    found = results(options.root)
    new = {name: filled(old[name], write(found), name) for name, write in PAGES.items()}
    stale = [name for name in PAGES if new[name] != old[name]]
    for name in stale:
        if not options.check:
            (options.root / name).write_text(new[name], "utf-8")
        print(f"{name} is out of date: make docs" if options.check else f"{name} written")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
