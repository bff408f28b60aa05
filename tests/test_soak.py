"""Long use of one process: its memory and files stay flat; the bytes of a fit depend on the data.

The sizes are those of `make nightly`; LOWERBOUND_SOAK=0.1 makes them a tenth.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks/results/soak.json"
SHARE = float(os.environ.get("LOWERBOUND_SOAK", "1"))
AMOUNTS = {"loads": 500, "fits": 200, "threads": 600}  # loads and scores, fits, seconds
KEPT = 0.2  # share of the sizes from which the samples are kept as a result
GROWTH = 12.0  # MB from the middle to the end of a run: less than 50 kB for each fit

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc"),
]


def environment(**others: str) -> dict[str, str]:
    paths = [str(ROOT / "src"), str(ROOT / "tests")]
    known = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return {**known, **others}


@pytest.mark.parametrize("kind", AMOUNTS)
def test_memory_and_files_stay_flat(tmp_path, kind):
    amount = max(8, round(AMOUNTS[kind] * SHARE))
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/soak.py"), kind, str(amount), str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    keep(found)
    assert found["wrong"] == 0, done.stderr
    assert found["files"][-1] <= found["files"][0]
    assert found["threads"][-1] <= found["threads"][0]
    # The allocator fills up during the first half; the end is compared with the middle.
    memory = found["memory"]
    middle = len(memory) // 2
    some = max(1, middle // 4)
    growth = statistics.median(memory[-some:]) - statistics.median(memory[middle:][:some])
    assert growth <= GROWTH, memory


def keep(found: dict[str, object]) -> None:
    """Write the samples of a run to the results, in place of those of its kind."""
    if SHARE < KEPT:
        return
    before = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else []
    runs = {each["kind"]: each for each in [*before, found]}
    inorder = [runs[kind] for kind in AMOUNTS if kind in runs]
    command = "make nightly" if SHARE == 1 else f"LOWERBOUND_SOAK={SHARE:g} make nightly"
    RESULT.write_text(json.dumps({"command": command, "runs": inorder}) + "\n")


# Put first on the path of a process, it makes pandas look as if it were not installed.
WITHOUT_PANDAS = """
import sys


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hidden())
"""


def table(path: Path) -> None:
    """Write a table whose kinds are inferred from text: dates, labels, gaps, counts."""
    rng = np.random.default_rng(5)
    n = 400
    days = np.datetime64("1990-01-01") + rng.integers(0, 9000, n)
    words = [f"{d:%d-%b-%y}" for d in days.astype("datetime64[D]").tolist()]
    names = rng.choice(["Ä", "é", "zoo", "Zoo", "10", "9"], n)
    rows = zip(words, names, rng.normal(size=n), rng.poisson(2, n), strict=True)
    lines = [
        f"{a},{b},{'' if i % 7 == 0 else f'{c:.6f}'},{d}" for i, (a, b, c, d) in enumerate(rows)
    ]
    path.write_text("\n".join(["when,name,size,parts", *lines]) + "\n", encoding="utf-8")


def fitted(folder: Path, *, recipe: str, **variables: str) -> dict[str, bytes]:
    """Fit in a process of its own, in a new folder; return files and the facts without times."""
    folder.mkdir(parents=True)
    table(folder / "tx.csv")
    paths = environment()["PYTHONPATH"]
    if variables.pop("pandas", "there") == "hidden":
        (folder / "hook").mkdir()
        (folder / "hook/sitecustomize.py").write_text(WITHOUT_PANDAS)
        paths = os.pathsep.join([str(folder / "hook"), paths])
    words = ["fit", "tx.csv", "--preset", "fast", "--max-epochs", "2", "--recipe", recipe]
    words += ["--drop", "when,name"] if recipe == "sigma" else []
    done = subprocess.run(
        [sys.executable, "-m", "lowerbound", *words, "--out", "m.vae", "--quiet"],
        cwd=folder,
        env={**environment(), "PYTHONPATH": paths, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = ("weights.safetensors", "schema.json", "calibration.json", "config.json")
    found = {name: (folder / "m.vae" / name).read_bytes() for name in names}
    engine = json.loads((folder / "m.vae/metrics.json").read_text())["engine"]
    return {**found, "engine": json.dumps(engine, sort_keys=True).encode()}


CHANGES = {
    "threads": {"OMP_NUM_THREADS": "2"},
    "hashes": {"PYTHONHASHSEED": "1"},
    "other hashes": {"PYTHONHASHSEED": "4294967295"},
    "folder": {},
    "locale C": {"LC_ALL": "C", "LANG": "C"},
    "locale C.UTF-8": {"LC_ALL": "C.UTF-8"},
    "German locale": {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8", "LC_TIME": "de_DE.UTF-8"},
    "without pandas": {"pandas": "hidden"},
}


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """Return the bytes of the fits that the others are compared with."""
    home = tmp_path_factory.mktemp("usual")
    return {
        recipe: fitted(home / recipe, recipe=recipe, PYTHONHASHSEED="0")
        for recipe in ("table", "sigma")
    }


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("recipe", ["table", "sigma"])
def test_the_bytes_of_a_fit_do_not_depend_on_the_surroundings(tmp_path, usual, recipe, change):
    deep = tmp_path / "another folder" / change.replace(" ", "_")
    found = fitted(deep, recipe=recipe, **CHANGES[change])
    if change == "threads" and found["engine"] != usual[recipe]["engine"]:
        pytest.skip(f"the engine says that it ran otherwise: {found['engine'].decode()}")
    for name, content in usual[recipe].items():
        assert found[name] == content, name
