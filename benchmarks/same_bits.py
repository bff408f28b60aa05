"""Do two checkouts give the same bits? Fits with a fixed seed, then score, embed, sample, impute.

    python benchmarks/same_bits.py OTHER_CHECKOUT   # exit 1 where a digest differs

Each checkout runs in a process of its own, in the same environment, on one thread. Checkouts of
before the rooms (f8c1d79) have other names for the same things, which are looked for here.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
SMALL_CODES = {"codes": 8, "dim": 3, "channels": 4, "blocks": 1, "halvings": 1}


def first_of(*places: str) -> Any:
    for place in places:
        module, _, name = place.partition(":")
        try:
            return getattr(import_module(module), name)
        except ImportError:
            continue
    raise ImportError(places)


def cases() -> dict[str, tuple[Any, dict[str, Any]]]:
    rng = np.random.default_rng(0)
    n = 600
    frame = pd.DataFrame(
        {
            "a": rng.normal(size=n),
            "b": rng.choice(list("xyz"), n),
            "c": rng.exponential(size=n),
            "k": rng.poisson(3, n),
        }
    )
    gaps = frame.copy()
    gaps.loc[::7, "a"] = np.nan
    x = rng.normal(size=(n, 5))
    pictures = (rng.random((120, 10, 10)) > 0.5).astype(np.uint8)
    counts = rng.poisson(2, (n, 6)).astype(float)
    groups = {"groups": [1, 1], "channels": 8}
    vamp = {"prior": "vamp", "pseudo_inputs": 10}
    return {
        "table": (gaps, {}),
        "table, balanced": (frame, {"preset": "balanced"}),
        **{name: (x, {"recipe": name}) for name in ("sigma", "ladder", "iaf", "beta")},
        "gaussian, vamp": (x, {"recipe": "gaussian", "settings": vamp}),
        "counts": (counts, {"recipe": "counts"}),
        "conv": (pictures, {"recipe": "conv"}),
        "conv_ladder": (pictures, {"recipe": "conv_ladder", "settings": groups}),
        "vqvae": (
            pictures,
            {"recipe": "vqvae", "settings": {**SMALL_CODES, "prior_channels": 8}},
        ),
    }


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def of_array(array: Any) -> str:
    return digest(np.ascontiguousarray(np.asarray(array)).tobytes())


def of_table(table: Any) -> str:
    return digest(json.dumps(table.to_pydict(), default=str).encode())


def digests() -> dict[str, dict[str, str]]:
    learn = first_of("lowerbound.training.fit:learn", "lowerbound.learning:learn")
    plan = first_of("lowerbound.training.plan:Plan", "lowerbound.plan:Plan")
    found = {}
    for name, (data, chosen) in cases().items():
        more = {"preset": "fast", "max_epochs": 2, "seed": 1, "device": "cpu", **chosen}
        model = learn(data, plan(**more))
        frame, coded = model.encode(data)
        score = getattr(model, "anomaly_score", None) or model.score
        sample = getattr(model, "samples", None) or model.sample
        weights = (tensor.numpy().tobytes() for tensor in model.model.state_dict().values())
        found[name] = {
            "weights": digest(b"".join(weights)),
            "score": of_array(score(data)),
            "embed": of_array(model.embed(data)),
            "sample": of_table(sample(20, seed=5).table),
            "impute": of_table(model.impute_coded(frame, coded)),
            "impute, draws": of_table(model.impute_coded(frame, coded, draws=2, seed=3)),
        }
    return found


def run(checkout: Path) -> dict[str, dict[str, str]]:
    env = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--digests"]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> int:
    if sys.argv[1:] == ["--digests"]:
        print(json.dumps(digests()))
        return 0
    ours, theirs = run(ROOT), run(Path(sys.argv[1]).resolve())
    differ = 0
    for name, each in ours.items():
        wrong = [what for what, value in each.items() if theirs[name][what] != value]
        differ += bool(wrong)
        print(f"{name:<16} {'DIFFERS: ' + ', '.join(wrong) if wrong else 'same bits'}")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
