"""How many samples a second does our fit path train, and how many do its peers?

Each side runs in an environment of its own (`make bench-peers`), ours and the usual loop in
.venv. In every round each workload is measured once per side, one after the other, each time in a
process of its own; what is compared are medians over rounds. Run it on an idle machine.

Run: LOWERBOUND_DATA=... python benchmarks/throughput.py [--rounds 3] [--only WORKLOAD ...]
[--skip PEER ...] [--quick] [--threads 2]
The result is written after every round, as throughput_partial.json until the last of at least
three rounds of everything; only that is throughput.json. `--table` prints the table of the latter.
`--again WORKLOAD ...` measures some of them anew, where the machine was not idle, and puts them
into throughput.json, which says so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import results_file
from peers.common import mnist
from peers.workloads import DEFAULT, EQUAL, GOALS, SEVERAL, SIDES, WORKLOADS, Goal, Workload

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "benchmarks/peers"
OWN = ("ours", "loop")  # sides that run in .venv
ROUNDS = 3  # at the least, for the result that is kept
LIMIT = 1800  # seconds for one measurement
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Runs = dict[tuple[str, str], list[dict[str, Any]]]  # (workload, side) -> its measurements


def python_of(side: str) -> Path:
    """Return the interpreter of a side's environment."""
    return ROOT / (".venv" if side in OWN else f".peers/{side}") / "bin/python"


def environment_of(threads: int | None) -> dict[str, str]:
    """Return the environment variables of a side: the CPU only, and that many threads."""
    kept = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
    limits = {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
    return {**kept, **limits, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}


def bind(threads: int | None) -> None:
    """Keep this process to as many cores as threads; XLA takes its number of threads from that."""
    if threads is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def measure(
    side: str, workload: Workload, seed: int, threads: int | None, quick: bool
) -> dict[str, Any]:
    """Run one side once; return its report, or what went wrong."""
    work = json.dumps(workload.work(seed, quick))
    try:
        done = subprocess.run(
            [python_of(side), SCRIPTS / f"run_{side}.py", work],
            capture_output=True,
            check=True,
            env=environment_of(threads),
            preexec_fn=lambda: bind(threads),
            text=True,
            timeout=LIMIT,
        )
    except subprocess.CalledProcessError as error:
        return {"error": (error.stderr.strip().splitlines() or ["no output"])[-1]}
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {LIMIT} s"}
    return json.loads(done.stdout.splitlines()[-1])


def one_round(number: int, names: Sequence[str], options: argparse.Namespace, runs: Runs) -> None:
    """Measure every side of every workload once, in turn, and add it to `runs`."""
    for name in names:
        workload = WORKLOADS[name]
        threads = options.threads if workload.threads == SEVERAL else workload.threads
        for side in ("ours", *workload.peers):
            if side in options.skip or not python_of(side).exists():
                continue
            began = time.monotonic()
            run = measure(side, workload, number, threads, options.quick)
            runs.setdefault((name, side), []).append(run)
            speed = run.get("error") or f"{run['samples_per_second']:,.0f} samples/s"
            took = time.monotonic() - began
            print(f"{number + 1} {name:12} {side:7} {speed} ({took:.0f} s)", flush=True)


def speeds(runs: Runs, name: str, side: str) -> list[float]:
    """Return a side's samples per second, one per round; none if one of them failed."""
    each = runs.get((name, side), [])
    return [] if any("error" in run for run in each) else [r["samples_per_second"] for r in each]


def spread(values: Sequence[float], digits: int) -> dict[str, float]:
    """Return the median and the ends of some numbers."""
    ends = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in ends.items()}


def side_summary(runs: Runs, name: str, side: str) -> dict[str, Any]:
    """Return what is kept of a side's measurements."""
    each, fast = runs[name, side], speeds(runs, name, side)
    if not fast:
        return {"failed": next(run["error"] for run in each if "error" in run)}
    losses = [run["loss"] for run in each]
    return {
        "samples": each[0]["samples"],
        "samples_per_second": spread(fast, 0),
        "seconds": spread([run["seconds"] for run in each], 3),
        "loss": None if None in losses else round(statistics.median(losses), 2),
        "facts": {key: _middle([r["facts"][key] for r in each]) for key in each[0]["facts"]},
    }


def _middle(values: Sequence[Any]) -> Any:
    """Return the median of numbers, the first of anything else."""
    return statistics.median(values) if isinstance(values[0], int | float) else values[0]


def ratio(runs: Runs, ours: tuple[str, str], theirs: tuple[str, str]) -> dict[str, float] | None:
    """Return ours / theirs: of the medians, and the ends of the rounds' own ratios."""
    a, b = speeds(runs, *ours), speeds(runs, *theirs)
    if not a or not b:
        return None
    paired = [x / y for x, y in zip(a, b, strict=True)]
    return {
        "of_medians": round(statistics.median(a) / statistics.median(b), 3),
        "min": round(min(paired), 3),
        "max": round(max(paired), 3),
    }


def workload_summary(runs: Runs, name: str, threads: int) -> dict[str, Any]:
    """Return a workload's facts, its sides and the ratios."""
    workload = WORKLOADS[name]
    taken = {SEVERAL: threads, DEFAULT: "each side's default"}
    sides = [side for side in ("ours", *workload.peers) if (name, side) in runs]
    ratios = {p: ratio(runs, (name, "ours"), (name, p)) for p in workload.peers if p in sides}
    return {
        "about": workload.about,
        "data": _data(workload),
        "rows": workload.rows,
        "batch": workload.batch,
        "epochs": workload.epochs,
        "threads": taken.get(workload.threads, workload.threads),
        "ratios": {peer: value for peer, value in ratios.items() if value is not None},
        "sides": {side: side_summary(runs, name, side) for side in sides},
    }


def _data(workload: Workload) -> str:
    if workload.data in ("bits", "images28"):
        return "binarised MNIST" if mnist() else "random bits"
    return f"drawn, see common.py ({workload.data})"


def goal_row(goal: Goal, runs: Runs, quick: bool) -> dict[str, Any]:
    """Return one goal, and whether it is met; None where that was not measured in earnest."""
    found = ratio(runs, (goal.workload, "ours"), (goal.against or goal.workload, goal.peer))
    measured = None if found is None else found["of_medians"]
    return {
        "goal": goal.number,
        "workload": goal.workload,
        "peer": goal.peer,
        "peer_workload": goal.against or goal.workload,
        "at_least": round(goal.at_least, 3),
        "measured": measured,
        "met": None if quick or measured is None else measured >= goal.at_least,
    }


def side_facts(runs: Runs, side: str, skipped: Sequence[str]) -> dict[str, Any]:
    """Return what a side is, and its versions or why it is missing."""
    versions = [r["versions"] for (_, s), each in runs.items() if s == side
                for r in each if "versions" in r]  # fmt: skip
    if versions:
        return {"about": SIDES[side], "versions": versions[0]}
    if side in skipped:
        reason = "skipped"
    elif python_of(side).exists():
        reason = "no measurement"
    else:
        reason = f"no .peers/{side}: `make bench-peers` makes it"
    return {"about": SIDES[side], "missing": reason}


def lines_of(document: dict[str, Any]) -> Iterator[str]:
    """Yield the table of ratios: one line per workload and peer."""
    goals = {(g["workload"], g["peer_workload"], g["peer"]): g for g in document["goals"]}
    yield "| workload | ours/s | peer | its/s | ratio | rounds | goal |"
    yield "| :--- | ---: | :--- | ---: | ---: | ---: | ---: |"
    for name, workload in document["workloads"].items():
        for peer, found in workload["ratios"].items():
            ours, its = (
                workload["sides"][side]["samples_per_second"]["median"] for side in ("ours", peer)
            )
            goal = goals.get((name, name, peer))
            yield (
                f"| {name} | {ours:,.0f} | {peer} | {its:,.0f} | {found['of_medians']:.2f} "
                f"| {found['min']:.2f}-{found['max']:.2f} | {_told(goal)} |"
            )
    for goal in document["goals"]:
        if goal["workload"] != goal["peer_workload"] and goal["measured"] is not None:
            yield (
                f"| {goal['workload']} | | {goal['peer']}, {goal['peer_workload']} | "
                f"| {goal['measured']:.2f} | | {_told(goal)} |"
            )


def _told(goal: dict[str, Any] | None) -> str:
    if goal is None:
        return ""
    verdict = {True: " met", False: " not met", None: ""}[goal["met"]]
    return f"{goal['at_least']:.2f}{verdict}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, metavar="WORKLOAD", default=[])
    parser.add_argument("--again", nargs="+", choices=WORKLOADS, metavar="WORKLOAD", default=[])
    parser.add_argument("--skip", nargs="+", choices=SIDES, metavar="PEER", default=[])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=2, help="of all but the tiny nets")
    parser.add_argument("--quick", action="store_true", help="one short round: does it all run?")
    parser.add_argument("--table", action="store_true", help="print the table that was written")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    return options


def summary(
    runs: Runs, names: Sequence[str], options: argparse.Namespace, loads: Sequence[float]
) -> dict[str, Any]:
    """Return all that is written, of the rounds so far."""
    return {
        "rounds": len(loads) - 1,
        "quick": options.quick,
        "load_average": [round(load, 2) for load in loads],
        "equal": EQUAL,
        "sides": {side: side_facts(runs, side, options.skip) for side in SIDES},
        "goals": [goal_row(goal, runs, options.quick) for goal in GOALS],
        "workloads": {name: workload_summary(runs, name, options.threads) for name in names},
    }


def file_name(done: int, options: argparse.Namespace) -> str:
    """Return the name of the result: the kept one only for a whole run of enough rounds."""
    some = options.again or options.only or options.skip or options.quick
    return "throughput_partial" if some or done < max(ROUNDS, options.rounds) else "throughput"


def merged(content: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return what is kept, with the workloads that were measured anew in their places."""
    kept = json.loads((results_file.RESULTS / "throughput.json").read_text())
    kept["workloads"] |= content["workloads"]
    new = {(g["goal"], g["workload"], g["peer"]): g for g in content["goals"]}
    kept["goals"] = [
        new[g["goal"], g["workload"], g["peer"]] if g["workload"] in names else g
        for g in kept["goals"]
    ]
    kept["again"] = {"workloads": list(names), "load_average": content["load_average"]}
    for name in ("command", "environment"):  # written anew
        kept.pop(name, None)
    return {**kept, "first_command": "python benchmarks/throughput.py"}


def main() -> None:
    options = arguments()
    if options.table:
        kept = results_file.RESULTS / "throughput.json"
        print(*lines_of(json.loads(kept.read_text())), sep="\n")
        return
    names = options.again or options.only or list(WORKLOADS)
    runs: Runs = {}
    loads = [os.getloadavg()[0]]
    for number in range(options.rounds):
        one_round(number, names, options, runs)
        loads.append(os.getloadavg()[0])
        content = summary(runs, names, options, loads)
        path = results_file.write(file_name(number + 1, options), **content)
    if options.again:
        content = merged(content, names)
        path = results_file.write("throughput", **content)
    print(*lines_of(content), path, sep="\n")


if __name__ == "__main__":
    main()
