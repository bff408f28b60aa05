"""The measurements of the server and of reports, from the JSONs in benchmarks/results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from performance_page import processor

Document = Mapping[str, Any]

_BARS = {
    "connections_5xx": "1,000 connections for a minute: answers of 500 or above, and lost ones",
    "connections_wrong": "the same: scores that differ from those of `lowerbound score`",
    "latency_p99_ms": "one row at 200 requests a second: 99th percentile, ms",
    "throughput_share": "Arrow bodies of 1,000 rows: share of the rows a second in a process",
    "fuzz_500": "10,000 fuzzed requests: answers of 500, and hung ones",
    "hostile_unanswered": "slow clients, bombs and other hostile requests that are not refused",
    "hostile_growth_mb": "the same: growth of the memory, MB",
    "memory_growth": "growth of the memory over 100,000 requests, as a share",
    "killed_lost_of_others": "a worker is killed: lost requests of other workers",
    "swapped_lost": "another model takes its place, and the end: lost requests",
}


def serving_table(document: Document) -> str:
    """Return what the server does under load."""
    lines = ["| measured | found | bar | |", "| :--- | ---: | ---: | :--- |"]
    for name, each in document["bars"].items():
        least = "at least" if name == "throughput_share" else "at most"
        verdict = "met" if each["met"] else "**missed**"
        lines.append(
            f"| {_BARS[name]} | {each['value']:g} | {least} {each['bar']:g} | {verdict} |"
        )
    found = document["results"]
    crowd, alone = found["connections"], found["latency"]
    answered = sum(found["fuzz"]["answered"].values())
    return "\n\n".join(
        [
            "A model of Adult (15 columns), served on this machine; the clients run beside the "
            f"server on the same {document['processors']} cores "
            f"({processor(document['environment'])}).",
            "\n".join(lines),
            f"With {crowd['connections']:,} connections the server answers "
            f"{crowd['requests_per_second']:,} one-row requests a second. At "
            f"{alone['rate']} a second, half of them take at most {alone['p50_ms']:g} ms. "
            f"{answered:,} of the {found['fuzz']['requests']:,} fuzzed requests reached the model "
            "or a page, the others were refused.",
            "Made by `benchmarks/serving.py`.",
        ]
    )


def reports_table(document: Document) -> str:
    """Return the seconds and the sizes of reports."""
    head = "| report of | seconds | at most | page, MB | at most | |"
    lines = [head, "| :--- | ---: | ---: | ---: | ---: | :--- |"]
    names = {
        "table": "100,000 rows of a mixed table",
        "cells": "50,000 cells, 2,000 genes",
        "pictures": "a folder of 2,000 pictures",
    }
    for kind, each in document["results"].items():
        cells = [
            names[kind],
            f"{each['median']:.1f}",
            f"{each['most_seconds']:g}",
            f"{each['bytes'] / 1e6:.1f}",
            f"{each['most_bytes'] / 1e6:g}",
            "met" if each["met"] else "**missed**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    machine = processor(document["environment"])
    return "\n\n".join(
        [
            f"From the call of `lowerbound report` to its exit, {machine}, the start of Python "
            "and torch included:",
            "\n".join(lines),
        ]
    )
