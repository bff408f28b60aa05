"""The costs and the memory in docs/scaling.md, from the JSONs that benchmarks wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]


def _net(name: str, document: Document) -> str:
    net, cost = document["nets"][name], document["costs"][name]
    hidden = " and ".join(str(n) for n in net["hidden"])
    return f"{name} (layers of {hidden}, {cost['parameters']:,} weights, batch {net['batch']:,})"


def steps_table(document: Document) -> str:
    """Return the cost of a step in one process and in two."""
    lines = [
        "| net | fixed, ms | a row, µs | gradients of two, ms | two processes are |",
        "| :--- | ---: | ---: | ---: | ---: |",
    ]
    for name, cost in document["costs"].items():
        cells = [
            _net(name, document),
            f"{1e3 * cost['seconds_fixed']:.2f}",
            f"{1e6 * cost['seconds_per_row']:.2f}",
            f"{1e3 * cost['seconds_together']:.2f}",
            f"{cost['times_as_fast_with_two']:.2f} times as fast",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    rates = document["rows_per_second"]
    spoken = ", ".join(f"`{verb}` {rate:,.0f}" for verb, rate in rates.items())
    return (
        "A step over 30 columns, one thread per process, two processes on one machine:\n\n"
        + "\n".join(lines)
        + f"\n\nRows per second of one process, including start-up: {spoken}."
    )


def _spelled(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.1f} s"
    return f"{60 * hours:.1f} min" if hours < 2 else f"{hours:,.1f} h"


def projection(document: Document) -> str:
    """Return the projected time of a pass."""
    counts = sorted({row["processes"] for row in document["projected"]})
    lines = [
        f"| net, rows, on | {' | '.join(str(n) for n in counts)} |",
        f"| :--- |{' ---: |' * len(counts)}",
    ]
    groups: dict[tuple[str, int], list[Document]] = {}
    for row in document["projected"]:
        groups.setdefault((row["net"], row["rows"]), []).append(row)
    for where, what in (("cores_hours", "cores like these"), ("gpu_hours", "GPUs")):
        for (net, rows), each in groups.items():
            cells = [_spelled(row[where]) for row in each]
            lines.append(f"| {net}, {rows:.0e}, {what} | {' | '.join(cells)} |")
    assumed = document["assumed"]
    return (
        "The projected time of a pass, by network, rows and number of processes: a step is its "
        "fixed cost, plus its rows divided among the processes, plus the sum of gradients in a "
        "ring. The cores are as measured above. The assumptions for a GPU are "
        f"{assumed['gpu_flops_per_second']:.0e} operations per second, at least "
        f"{1e3 * assumed['gpu_seconds_per_step']:g} ms for a step, "
        f"{assumed['bytes_per_second']:.0e} bytes per second to the next GPU, and "
        f"{1e6 * assumed['seconds_per_message']:g} µs for a message:\n\n"
        + "\n".join(lines)
        + "\n\nNot included: every machine reads and codes the data itself, so the preparation "
        "of a "
        "fit does not get shorter with their number."
    )


LAYOUTS = {"groups": "row groups of 250,000", "one": "one row group"}


def _held(bars: Mapping[str, bool]) -> str:
    return "\n".join(f"- {'holds' if met else '**missed**'}: {bar}" for bar, met in bars.items())


def memory_table(document: Document) -> str:
    """Return the peak memory for few and for many rows, and the bars."""
    lines = [
        "| rows | layout | verb | peak, MB | rows a second |",
        "| ---: | :--- | :--- | ---: | ---: |",
    ]
    for name, verbs in document["results"].items():
        rows, layout = name.split()
        for verb, found in verbs.items():
            cells = [
                f"{int(rows):,}",
                LAYOUTS[layout],
                f"`{verb}`",
                f"{found['peak_mb']:,.0f}",
                f"{found['rows_per_second']:,.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return (
        f"Parquet files of {document['setting']['columns']} columns, `fit` with the preset "
        f"{document['setting']['preset']}; each command is a process of its own, "
        "including start-up; `fit` and `embed` are medians of three runs:\n\n"
        + "\n".join(lines)
        + f"\n\n{_held(document['bars'])}"
    )


def shards_table(document: Document) -> str:
    """Return the peak memory for a folder of many files."""
    setting = document["setting"]
    lines = ["| verb | peak, MB | rows a second |", "| :--- | ---: | ---: |"]
    for verb, found in document["results"].items():
        lines.append(f"| `{verb}` | {found['peak_mb']:,.0f} | {found['rows_per_second']:,.0f} |")
    return (
        f"Card transactions, repeated to {setting['rows']:,} rows in {setting['shards']} files; "
        "the bar is 2,000 MB:\n\n" + "\n".join(lines)
    )


PARTS = (
    ("### Measured", "scaling", steps_table),
    ("### Memory and the number of rows", "larger_than_memory", memory_table),
    ("### Many files", "creditcard_shards", shards_table),
    ("### Projected", "scaling", projection),
)
