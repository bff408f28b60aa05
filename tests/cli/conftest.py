"""A table that nobody prepared, a small model of it, and the command line in this process."""

import csv
import datetime
import json
import random
import shutil
from typing import NamedTuple

import pytest

import zoo
from lowerbound.cli.main import main


class Ran(NamedTuple):
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def facts(self):
        return json.loads(self.out)

    @property
    def error(self):
        return json.loads(self.err)["error"]


def write_table(path, rows=260, seed=1):
    """Mixed kinds, gaps, ids with leading zeros, a date, a rare category, a constant, text."""
    rng = random.Random(seed)
    begin = datetime.datetime(2024, 1, 1)
    names = ["account", "amount", "fee", "country", "ts", "is_new", "visits", "channel", "note"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(names)
        for i in range(rows):
            country = "KY" if i % 97 == 5 else rng.choice(["FR", "DE", "US", "FR"])
            amount = round(rng.lognormvariate(5 if country == "US" else 3, 1), 2)
            fee = "" if rng.random() < 0.2 else round(0.02 * amount + rng.gauss(0, 0.1), 3)
            when = begin + datetime.timedelta(minutes=rng.randrange(200_000))
            out.writerow(
                [
                    f"{7 * i:06d}",
                    amount,
                    fee,
                    country,
                    when.isoformat(" ", "seconds"),
                    rng.random() < 0.3,
                    rng.randrange(8),
                    "web",
                    f"free words number {i}, and {rng.random():.4f} others",
                ]
            )


def model_of_a_table(folder):
    """A folder with tx.csv and a model tx.vae of it."""
    write_table(folder / "tx.csv")
    model = str(folder / "tx.vae")
    words = ["fit", str(folder / "tx.csv"), "--preset", "fast", "--max-epochs", "3", "-q"]
    assert main([*words, "--out", model]) == 0


@pytest.fixture(scope="session")
def made():
    """A folder with tx.csv and a model tx.vae of it; do not change them."""
    return zoo.folder(model_of_a_table)


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A fresh current folder with a copy of tx.csv and tx.vae."""
    shutil.copy(made / "tx.csv", tmp_path / "tx.csv")
    shutil.copytree(made / "tx.vae", tmp_path / "tx.vae")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def run(folder, capsys):
    """Run one command in this process."""

    def command(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Ran(code, *capsys.readouterr())

    return command


@pytest.fixture
def call(made, tmp_path, monkeypatch, capsys):
    """Run a command among the models, its outputs in a fresh folder; return its facts."""
    monkeypatch.chdir(made)

    def command(*words, code=0, out=None):
        capsys.readouterr()
        target = [] if out is None else ["--out", str(tmp_path / out)]
        assert main([*words, *target, "--json"]) == code
        told = capsys.readouterr()
        return json.loads(told.out) if code == 0 else json.loads(told.err)["error"]

    command.folder = tmp_path
    return command


@pytest.fixture
def spoken(tmp_path, monkeypatch, capsys):
    """Run a command in a fresh current folder; return its facts, or its error."""
    monkeypatch.chdir(tmp_path)

    def command(*words, code=0):
        capsys.readouterr()
        assert main([*words, "--json"]) == code
        told = capsys.readouterr()
        return json.loads(told.out) if code == 0 else json.loads(told.err)["error"]

    command.folder = tmp_path
    return command
