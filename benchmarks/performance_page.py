"""The measurements of docs/performance.md, from the JSONs in benchmarks/results."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from throughput import lines_of

Document = Mapping[str, Any]


def processor(machine: Document) -> str:
    """Return the number of threads, and the instructions that torch's kernels use if known."""
    told = machine.get("instructions")
    return f"{machine['threads']} threads" + (f" with {told}" if told else "")


def throughput_tables(document: Document) -> str:
    """Return the table of ratios, a description of each side, and the goals."""
    machine = document["environment"]
    goals = [goal for goal in document["goals"] if goal["met"] is not None]
    met = sum(goal["met"] for goal in goals)
    sides = "\n".join(
        f"- **{name}**: {side['about']}."
        for name, side in document["sides"].items()
        if "missing" not in side
    )
    return "\n\n".join(
        [
            f"Samples per second, medians of {document['rounds']} rounds in which the sides take "
            f"turns, {processor(machine)}, torch {machine['torch']}. The ratio is ours "
            "over theirs, with its range over the rounds:",
            "\n".join(lines_of(dict(document))),
            f"{met} of {len(goals)} goals are met.",
            f"Equal on all sides: {document['equal']}.",
            sides,
            f"Made by `benchmarks/throughput.py`.{_again(document)}",
        ]
    )


def commands_table(document: Document) -> str:
    """Return the seconds of whole commands."""
    lines = ["| command | seconds | runs | goal |", "| :--- | ---: | ---: | ---: |"]
    for what, each in document["seconds"].items():
        bar = document["bars"].get(what)
        goal = "" if bar is None else f"{bar['bar']:g} {'met' if bar['met'] else 'not met'}"
        lines.append(f"| {what} | {median(each):.1f} | {len(each)} | {goal} |")
    machine, speed = document["environment"], document["rows_per_second"]
    return "\n\n".join(
        [
            "From the call to the exit, on the card transactions (284,807 rows of 30 columns, a "
            f"Parquet file), {processor(machine)}, torch {machine['torch']} and JAX; cold "
            "is a first fit, which compiles, warm one that finds its programs in the cache. "
            f"`score` takes {speed['score']:,} rows a second of the whole command, `embed` "
            f"{speed['embed']:,}. {_embedding(document)}".rstrip(),
            "\n".join(lines),
        ]
    )


def _embedding(document: Document) -> str:
    """Return what the parts of an embedding take."""
    parts = document.get("embedding")
    if parts is None:
        return ""
    told = ", ".join(f"{part} {seconds:g}" for part, seconds in parts.items())
    return (
        "The parts of `embed` of a large table of 31 columns take, in seconds of one core per "
        f"million rows: {told}."
    )


def scoring_table(document: Document) -> str:
    """Return the errors and the speed of scores."""
    lines = [
        "| draws from | draws | median error, nats | standard deviation | bias | rows a second |",
        "| :--- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for run in document["runs"]:
        cells = [
            run["by"],
            str(run["draws"]),
            f"{run['median_error']:.2f}",
            f"{run['standard_deviation']:.2f}",
            f"{run['bias']:+.2f}",
            f"{run['rows_per_second']:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    bars = [
        f"{name}: {bar['found']:g} where {bar['bar']:g} is the goal, "
        f"{'met' if bar['met'] else 'not met'}"
        for name, bar in document["bars"].items()
    ]
    explain = document["explain_ms"]
    return "\n\n".join(
        [
            f"Scores of {document['rows_compared']:,} rows that a fit of the card transactions "
            f"has not seen, against estimates by {document['draws_of_the_truth']:,} draws; rows "
            "a second of coded rows. A score takes 16 draws of the proposal; versions before "
            "took 32 of the posterior:",
            "\n".join(lines),
            f"An explanation (`--explain`) takes {explain['proposal']:g} ms a row, without a "
            f"proposal {explain['posterior']:g}. {'; '.join(bars)}.",
        ]
    )


def compiled_table(document: Document) -> str:
    """Return the times of compiled steps, of torch's, and of steps written by hand in JAX."""
    lines = [
        "| workload | torch, ms | compiled, ms | ratio | by hand, ms | compiling, s | chosen |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | :--- |",
    ]
    for run in document["runs"]:
        ms, by_hand = run["ms"], run["ms"].get("by hand")
        chosen = "compiled" if run["chosen"].startswith("compiled") else "torch"
        cells = [
            run["workload"],
            f"{ms['torch']:.2f}",
            f"{ms['compiled']:.2f}",
            f"{run['ratio']:.1f}",
            "" if by_hand is None else f"{by_hand:.2f}",
            f"{run['compile_seconds']:.1f}",
            chosen,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    machine = document["environment"]
    return "\n\n".join(
        [
            "Milliseconds per training step, without checks on held-out rows, medians of rounds "
            f"in which the sides take turns; {processor(machine)}, torch "
            f"{machine['torch']}, jax {document['jax']}; by hand is a step written for that net "
            "in JAX. Compiling includes recording the step; a second fit of the "
            "same model and batch size finds the program in the cache. The last column is what a "
            "fit of many steps chooses.",
            "\n".join(lines),
        ]
    )


def _again(document: Document) -> str:
    """Name the workloads that were measured a second time."""
    names = document.get("again", {}).get("workloads", [])
    if not names:
        return ""
    return f" {' and '.join(names)} were measured again, because another job had disturbed them."


def switches_table(document: Document) -> str:
    """Return the effect of each switch on the held-out ELBO."""
    nets = document["results"]
    names = list(dict.fromkeys(name for each in nets.values() for name in each))
    lines = [
        f"| switch | {' | '.join(nets)} | on by default |",
        f"| :--- |{' ---: |' * len(nets)} :--- |",
    ]
    for name in names:
        cells = [f"{nets[net][name]['against_plain_loop']:+.3f}" for net in nets]
        on = "where it is faster" if nets[next(iter(nets))][name]["on_by_default"] else "no"
        on = "" if name == "plain loop" else on
        lines.append(f"| {name} | {' | '.join(cells)} | {on} |")
    spread = ", ".join(f"{net} {nets[net]['plain loop']['sd_over_seeds']:.2f}" for net in nets)
    seeds = len(nets[next(iter(nets))]["plain loop"]["elbo"])
    missing = document.get("missing") or []
    absent = f" Not available on this machine: {', '.join(missing)}." if missing else ""
    return (
        f"Held-out ELBO after the same number of epochs against a plain loop of torch's own "
        f"parts, nats per row, mean of {seeds} seeds (standard deviation over seeds of the plain "
        f"loop itself: {spread}):\n\n" + "\n".join(lines) + f"\n\n{absent.strip()}".rstrip()
    )


def profile_table(document: Document) -> str:
    """Return the parts of a step's time."""
    results = document["results"]
    names = list(next(iter(results.values())))
    lines = [f"| net | {' | '.join(names)} |", f"| :--- |{' ---: |' * len(names)}"]
    for net, found in results.items():
        lines.append(f"| {net} | {' | '.join(f'{found[name]:g}' for name in names)} |")
    return (
        "Milliseconds per step, and the number of calls into torch, including nested ones and "
        "those of the last check; the rest of a step is elementwise work and the overhead of "
        "operations:\n\n" + "\n".join(lines)
    )


def latency_table(document: Document) -> str:
    """Return the time of one score of one row."""
    lines = ["| scorer | p50, us | p95, us |", "| :--- | ---: | ---: |"]
    for name, each in document["scorers"].items():
        lines.append(f"| {name} | {each['p50_us']:,.1f} | {each['p95_us']:,.1f} |")
    return f"{document['about']}\n\n" + "\n".join(lines)
