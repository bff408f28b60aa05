"""Small saved models for the tests, and ways to damage them knowingly."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lowerbound import bundle
from lowerbound.errors import ModelFileError

SOURCE = str(Path(bundle.__file__).parents[2])

NAMES = (
    "calibration.json",
    "card.md",
    "config.json",
    "metrics.json",
    "schema.json",
    "weights.safetensors",
)


def documents(mark="one"):
    return {
        "config.json": {"recipe": "table", "arguments": {"latent": 4, "sigma": 0.5}, "mark": mark},
        "schema.json": {"columns": [{"name": "größe", "kind": "real", "mean": 1 / 3}]},
        "calibration.json": {"threshold": 31.7, "rows": 1000, "none": None},
        "metrics.json": {"elbo": -18.5, "exact": True, "mark": mark},
        "card.md": f"# A model\n\nMark {mark}, größe.\n",
    }


def weights(seed=0):
    draw = np.random.default_rng(seed)
    return {
        "encoder.weight": draw.normal(size=(4, 8)).astype("f4"),
        "encoder.bias": draw.normal(size=4).astype("f4"),
        "steps": np.array(17),
    }


def make(path, mark="one", seed=0, **more):
    return bundle.save(path, documents=documents(mark), weights=weights(seed), **more)


def contents(path):
    return {file.name: file.read_bytes() for file in Path(path).iterdir()}


def seal(content):
    """Return manifest bytes that fit `content`, as an attacker or a later version would."""

    def canonical(value):
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

    body = {key: value for key, value in content.items() if key != "sha256"}
    return canonical(body | {"sha256": hashlib.sha256(canonical(body)).hexdigest()})


def change_manifest(path, change):
    file = Path(path) / "manifest.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_bytes(seal(content))


def replace(path, name, raw):
    """Put `raw` into the model under valid digests."""
    (Path(path) / name).write_bytes(raw)

    def change(content):
        for entry in content["files"]:
            if entry["name"] == name:
                entry.update(bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())

    change_manifest(path, change)


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def run(script, *arguments, **options):
    """Run `script` in a Python of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([SOURCE, os.path.dirname(__file__)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(path, code):
    """Check that both readers refuse `path` alike, and return the error."""
    with pytest.raises(ModelFileError) as verified:
        bundle.verify(path)
    with pytest.raises(ModelFileError) as loaded:
        bundle.load(path)
    assert str(verified.value) == str(loaded.value)
    assert verified.value.code == code, verified.value
    assert verified.value.exit_code == 4
    assert len(str(verified.value).splitlines()) <= 12
    return verified.value
