"""Write a benchmark's JSON with what is needed to run it again."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy
import sklearn
import torch

import lowerbound

RESULTS = Path(__file__).parent / "results"


def environment() -> dict[str, Any]:
    """Return versions and machine facts."""
    return {
        "lowerbound": lowerbound.__version__,
        "torch": torch.__version__,
        "sklearn": sklearn.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),  # of torch's kernels
        "threads": torch.get_num_threads(),
    }


def write(name: str, **content: Any) -> Path:
    """Write `benchmarks/results/NAME.json` and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    command = f"python benchmarks/{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".strip()
    document = {"command": command, "environment": environment(), **content}
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def earlier(name: str, setting: dict[str, Any]) -> dict[str, Any]:
    """Return the results of an earlier run of the same setting, to go on from; else nothing."""
    path = RESULTS / f"{name}.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    return document["results"] if document.get("setting") == setting else {}
