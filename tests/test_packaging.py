"""The wheel and the sdist: what they hold, and that they work where nothing else is installed."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import lowerbound
from lowerbound.bundle import shipped
from lowerbound.cli.main import main

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = [name for name in PROJECT["optional-dependencies"] if name != "dev"]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# The module of a distribution with another name.
MODULES = {
    "scikit-image": "skimage",
    "PyWavelets": "pywt",
    "mlflow-skinny": "mlflow",
    "umap-learn": "umap",
}
SMOKE = """
import json, subprocess, sys
import lowerbound
assert not {"torch", "numpy"} & set(sys.modules), "imports wait until they are used"
import numpy as np
from importlib import resources
assert resources.files("lowerbound").joinpath("py.typed").is_file()
x = np.random.default_rng(0).normal(size=(300, 3))
assert lowerbound.load("photos-denoise").recipe.name == "denoise"
model = lowerbound.fit(x, preset="fast", max_epochs=2)
again = lowerbound.load(model.save("m.vae"))
assert (again.anomaly_score(x) == model.anomaly_score(x)).all()
assert again.sample(5).shape == (5, 3)
assert again.check(x).rows == 300
rows = "\\n".join(["a,b", *(f"{a:.3f},{'xyz'[i % 3]}" for i, a in enumerate(x[:, 0]))])
from pathlib import Path
Path("t.csv").write_text(rows + "\\n")
"""
COMMANDS = [
    ("--version", "--json"),
    ("--help",),
    ("inspect", "t.csv"),
    ("fit", "t.csv", "--preset", "fast", "--max-epochs", "2", "--out", "t.vae"),
    ("verify", "t.vae"),
    ("score", "t.vae", "t.csv", "--out", "scores.csv", "--explain", "1"),
    ("check", "t.vae", "t.csv"),
]


def done(*words, **options):
    """Run a command and return its stdout; its output is shown if it fails."""
    ran = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, **options
    )
    assert ran.returncode == 0, f"{words}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    return ran.stdout


def interpreter(version):
    """Return the path of a Python of this version on this machine, or None."""
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    candidates = [*map(str, found), shutil.which(f"python{version}")]
    for each in filter(None, candidates):
        told = subprocess.run(
            [each, "-c", "import sys, venv; print(sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if told.stdout.strip() == str(tuple(map(int, version.split(".")))):
            return each
    return None


@functools.cache
def built():
    """Return the paths of the sdist, and of the wheel that is built from it."""
    folder = Path(tempfile.mkdtemp())
    tree = folder / "tree"
    tracked = done("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, tracked):  # a clean copy, as in a checkout
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, target)
    build = "import sys, hatchling.build as b; print(b.build_sdist(sys.argv[1]))"
    made = environment(folder / "build", sys.executable)
    done(made, "-m", "pip", "install", "-q", *PROJECT_BUILD)
    name = done(made, "-c", build, folder, cwd=tree).split()[-1]
    sdist = folder / name
    done(made, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, sdist)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


PROJECT_BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"][
    "requires"
]


def environment(folder, python):
    """Make a virtual environment with nothing in it, and return its Python."""
    done(python, "-m", "venv", folder)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def installed(folder, python, extra=""):
    """Return the Python of a new environment with the wheel, under the tested versions."""
    own = environment(folder, python)
    wheel = f"{built()[1]}[{extra}]" if extra else str(built()[1])
    done(own, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel)
    done(own, "-m", "pip", "check")
    return own


def test_version_as_json(capsys):
    assert main(["--version", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["lowerbound"] == lowerbound.__version__
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
    assert told["torch"].startswith("2.")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lowerbound {lowerbound.__version__}\n"


def test_the_changelog_is_in_releases():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    releases = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert releases[-1] == "0.1.0"
    assert "1.0.0rc1" in releases
    assert max(map(len, text.splitlines())) <= 240


def test_extras_are_what_the_code_asks_for():
    asked = set()
    for path in (ROOT / "src").rglob("*.py"):
        asked |= set(re.findall(r"lowerbound\[(\w+)\]", path.read_text("utf-8")))
    assert asked <= set(EXTRAS)


@pytest.mark.nightly
def test_the_sdist_holds_the_sources_and_the_wheel_only_the_package():
    sdist, wheel = built()
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "constraints.txt"):
        assert name in names
    assert {"src/lowerbound/__init__.py", "tests/test_packaging.py", "docs/tables.md"} <= names
    models = [name for name in names if ".vae/" in name and "golden" not in name]
    assert models
    assert all(name.startswith("src/lowerbound/bundle/shipped/") for name in models)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    sources = {str(p.relative_to(ROOT / "src")) for p in (ROOT / "src").rglob("*.py")}
    assert sources <= set(names)
    assert "lowerbound/py.typed" in names
    packed = {str(p.relative_to(ROOT / "src")) for p in (ROOT / "src").rglob("*.vae/*")}
    assert {f"lowerbound/bundle/shipped/{name}.vae" for name in shipped.NAMES} == {
        name.rpartition("/")[0] for name in packed
    }
    assert packed <= set(names)
    assert {name.split("/")[0] for name in names} == {
        "lowerbound",
        f"lowerbound-{lowerbound.__version__}.dist-info",
    }
    assert wheel.stat().st_size < 5e6


@pytest.mark.nightly
@pytest.mark.parametrize("version", PYTHONS)
def test_the_wheel_works_alone(tmp_path, version):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} on this machine")
    own = installed(tmp_path / "venv", python)
    usual = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", "PYTHONWARNINGS": "default"}
    done(own, "-c", SMOKE, cwd=tmp_path, env=usual)
    for words in COMMANDS:
        told = done(own.parent / "lowerbound", *words, cwd=tmp_path, env=usual)
        if "--json" in words:
            assert json.loads(told)["python"].startswith(version)


@pytest.mark.nightly
@pytest.mark.parametrize("extra", EXTRAS)
def test_each_extra_installs_on_its_own(tmp_path, extra):
    own = installed(tmp_path / "venv", sys.executable, extra)
    for text in PROJECT["optional-dependencies"][extra]:
        name = Requirement(text).name
        module = MODULES.get(name, name.replace("-", "_"))
        told = done(own, "-c", f"import lowerbound, {module}; print('ok')", cwd=tmp_path)
        assert told.strip().endswith("ok"), name
