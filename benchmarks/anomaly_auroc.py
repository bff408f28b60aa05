"""AUROC of anomaly scores on 24 public tables, one default configuration, no tuning per table.

    LOWERBOUND_DATA=/data python benchmarks/anomaly_auroc.py --cache /tmp/auroc
    LOWERBOUND_DATA=/data python benchmarks/anomaly_auroc.py --methods KNN --protocol paper

Each (protocol, table, method, seed) is stored in the cache folder as soon as it is computed; a
second run with the same folder continues where the first one stopped. What an earlier run measured
of other methods or tables is kept in the results, with that run's command and versions.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

import lowerbound
from anomaly_baselines import BASELINES, DETERMINISTIC
from anomaly_protocols import PROTOCOLS, SMALL, load, published, tables

OUT = Path(__file__).parent / "results" / "anomaly_auroc.json"


def ours(X_train, X_test, seed):
    """The library's default configuration."""
    return lowerbound.VAE(random_state=seed).fit(X_train).anomaly_score(X_test)


METHODS = {"ours": ours, **BASELINES}


def measure(protocol: str, table: str, method: str, seed: int) -> dict[str, float]:
    """Fit and score once; AUROC and average precision in percent, and the seconds spent."""
    split = PROTOCOLS[protocol].split(*load(table), seed)
    start = time.perf_counter()
    scores = np.asarray(METHODS[method](split.train, split.test, seed), dtype=np.float64)
    seconds = time.perf_counter() - start
    if not np.isfinite(scores).all():
        raise SystemExit(f"{method} gave non-finite scores on {table}, seed {seed}")
    return {
        "auroc": 100 * roc_auc_score(split.labels, scores),
        "ap": 100 * average_precision_score(split.labels, scores),
        "seconds": seconds,
    }


def seeds_for(protocol: str, table: str, method: str) -> tuple[int, ...]:
    """One seed where neither the split nor the method is random, else all."""
    rule = PROTOCOLS[protocol]
    fixed = method in DETERMINISTIC and not rule.depends_on_seed(len(load(table)[1]))
    return rule.seeds[:1] if fixed else rule.seeds


def cached(cache: Path | None, protocol: str, table: str, method: str, seed: int):
    """The stored result, or a new one, which is stored."""
    if cache is None:
        return measure(protocol, table, method, seed)
    file = cache / protocol / table / f"{method}-{seed}.json"
    if file.exists():
        return json.loads(file.read_text())
    result = measure(protocol, table, method, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(result))
    part.replace(file)
    return result


def cell(cache: Path | None, protocol: str, table: str, method: str) -> dict:
    """All seeds of one table and method."""
    seeds = seeds_for(protocol, table, method)
    runs = [cached(cache, protocol, table, method, seed) for seed in seeds]
    auroc = [run["auroc"] for run in runs]
    print(f"{protocol:6s} {table:16s} {method:8s} {np.mean(auroc):6.2f}", file=sys.stderr)
    return {
        "auroc": float(np.mean(auroc)),
        "auroc_sd": float(np.std(auroc, ddof=1)) if len(runs) > 1 else None,
        "ap": float(np.mean([run["ap"] for run in runs])),
        "seconds": float(np.mean([run["seconds"] for run in runs])),
        "auroc_by_seed": dict(zip(map(str, seeds), auroc, strict=True)),
    }


def means(cells: dict[str, dict[str, dict]], methods: list[str]) -> dict[str, dict[str, float]]:
    """Unweighted means over the tables."""
    return {
        method: {
            key: float(np.mean([row[method][key] for row in cells.values()]))
            for key in ("auroc", "ap", "seconds")
        }
        for method in methods
    }


def harness_check(cells: dict[str, dict[str, dict]]) -> dict:
    """Our KNN column against the published one, on the tables that are not resampled."""
    reference = published()
    differences = {
        table: row["KNN"]["auroc"] - reference[table]["KNN"]
        for table, row in cells.items()
        if "KNN" in row and len(load(table)[1]) >= SMALL
    }
    return {
        "what": "KNN minus published KNN, AUROC x 100, tables with n >= 1000",
        "tolerance": 0.05,
        "passed": all(abs(value) <= 0.05 for value in differences.values()),
        "differences": differences,
    }


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment() -> dict:
    """What is needed to repeat the run."""
    packages = ("lowerbound", "torch", "numpy", "scipy", "scikit-learn")
    return {
        "command": shlex.join(["python", *sys.argv]),
        "python": platform.python_version(),
        "versions": {name: _installed(name) for name in packages},
        "machine": platform.machine(),
    }


def with_earlier(report: dict, earlier: dict) -> dict:
    """Return a report with what an earlier one has of other methods and tables."""
    before, kept = earlier.get("protocols", {}), set()
    for protocol, old in before.items():
        new = report["protocols"].setdefault(protocol, {"seeds": old["seeds"], "tables": {}})
        for table, row in old["tables"].items():
            cells = new["tables"].setdefault(table, {})
            kept |= {method for method in row if method not in cells}
            new["tables"][table] = {**row, **cells}
        methods = [m for m in METHODS if all(m in row for row in new["tables"].values())]
        new["means"] = means(new["tables"], methods)
        if protocol == "paper" and "KNN" in methods:
            new["harness_check"] = harness_check(new["tables"])
    if kept:
        facts = {key: earlier[key] for key in ("command", "python", "versions", "machine")}
        report["earlier"] = {"methods": sorted(kept), **facts}
    return report


def run(protocols: list[str], names: list[str], methods: list[str], cache: Path | None) -> dict:
    """Every table first with all its methods, so that a table is read once."""
    report: dict = environment()
    report["protocols"] = {}
    for protocol in protocols:
        cells = {
            table: {method: cell(cache, protocol, table, method) for method in methods}
            for table in names
        }
        result = {"seeds": PROTOCOLS[protocol].seeds, "tables": cells}
        result["means"] = means(cells, methods)
        if protocol == "paper" and "KNN" in methods:
            result["harness_check"] = harness_check(cells)
        report["protocols"][protocol] = result
    return report


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--tables", nargs="+", choices=list(tables()), default=list(tables()))
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--cache", type=Path, help="folder of partial results, to resume from")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def main() -> None:
    """Run, write the JSON, print the means."""
    args = arguments()
    earlier = json.loads(args.out.read_text()) if args.out.exists() else {}
    report = with_earlier(run(args.protocol, args.tables, args.methods, args.cache), earlier)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    for protocol, result in report["protocols"].items():
        for method, mean in result["means"].items():
            print(f"{protocol:6s} {method:8s} AUROC {mean['auroc']:6.2f}  AP {mean['ap']:6.2f}")
        if "harness_check" in result:
            print("harness check:", "passed" if result["harness_check"]["passed"] else "FAILED")
    print(args.out.resolve())


if __name__ == "__main__":
    main()
