"""Ray: a fit of several workers is that of one, and files that are walked apart come out alike."""

import json
import os
import signal
import socket
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray import exceptions as ray_exceptions

import ray_jobs
from lowerbound import Model
from lowerbound.cli import main
from lowerbound.cli.commands.embed import embed
from lowerbound.cli.commands.fit import fit
from lowerbound.cli.commands.score import score
from lowerbound.cli.progress import SILENT
from lowerbound.cli.work import cluster as clustered
from lowerbound.cli.work import ray as launch
from lowerbound.errors import DataError, ResourceError, Stopped, UsageError
from lowerbound.files import read

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray warns of what it does itself

ROWS = 240
HOW = {"preset": "fast", "max_epochs": 3, "seed": 3}


class Voice:
    """Keep what is said."""

    def __init__(self):
        self.heard = []

    def say(self, line):
        self.heard.append(line)

    def report(self, check, budget):
        self.heard.append(f"epoch {check.epoch:g} of {budget.epochs:g}")

    def show(self, share, line):
        self.heard.append(f"{share:.2f} {line}")

    def close(self):
        pass


def table():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 2)) @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(ROWS, 4))
    kind = rng.choice(["x", "y", None], ROWS, p=[0.5, 0.4, 0.1])
    return pa.table(
        {**{n: x[:, j] for j, n in enumerate("abcd")}, "kind": kind, "id": range(ROWS)}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table in one file and in three, one of which lies in the folder of a partition."""
    made = tmp_path_factory.mktemp("ray")
    rows = table()
    pq.write_table(rows, made / "tx.parquet")
    for i, (start, count) in enumerate([(0, 100), (100, 0), (100, 70), (170, 70)]):
        (made / "parts" / f"day={i}").mkdir(parents=True)
        pq.write_table(rows.slice(start, count), made / "parts" / f"day={i}" / "rows.parquet")
    return made


@pytest.fixture(scope="module")
def cluster():
    with launch.cluster() as ray:
        ray.cloudpickle.register_pickle_by_value(ray_jobs)  # which is on no worker's path
        yield ray


@pytest.fixture(scope="module")
def alone(folder):
    return fit(str(folder / "tx.parquet"), out=folder / "alone.vae", **HOW)


def test_a_fit_of_two_workers_is_that_of_one(cluster, folder, alone, monkeypatch):
    monkeypatch.chdir(folder)
    voice = Voice()
    made = fit("tx.parquet", out="two.vae", ray=True, workers="2", voice=voice, **HOW)
    assert made.path == folder / "two.vae"
    assert isinstance(made.model, Model)
    one, two = (fitted.model.log_likelihood(table()) for fitted in (alone, made))
    assert np.abs(one - two).max() < 1e-3
    assert "2 processes" in voice.heard[0]
    assert sum(line.startswith("epoch ") for line in voice.heard) > 0
    assert made.next.startswith("lowerbound score two.vae")
    assert not list(folder.glob("*.run"))


@pytest.mark.parametrize("verb", ["score", pytest.param("embed", marks=pytest.mark.nightly)])
def test_files_that_are_walked_apart_come_out_as_the_whole(
    verb, cluster, folder, alone, monkeypatch
):
    monkeypatch.setattr(read, "part_rows", lambda columns: 50)  # as if no more could be held
    work = partial({"score": score, "embed": embed}[verb], alone.path, str(folder / "parts"))
    more = {"explain": 2} if verb == "score" else {}
    whole = work(out=folder / f"{verb}.parquet", **more)
    voice, out = Voice(), folder / f"{verb}-parts"
    apart = work(out=out, ray=True, workers=2, voice=voice, **more)
    files = sorted(out.iterdir())
    assert [file.name for file in files] == [f"part-0000{i}.parquet" for i in range(3)]
    assert [pq.read_metadata(file).num_rows for file in files] == [100, 70, 70]
    alike = [
        pq.read_table(folder / f"{verb}.parquet"),
        pa.concat_tables(map(pq.read_table, files)),
    ]
    if verb == "score":  # the highest scores of every file are explained, and not of all alone
        told = alike[0]["top1_column"].is_valid()
        assert 0 < sum(told.to_pylist()) < ROWS
        assert alike[0].filter(told).equals(alike[1].filter(told))
        alike = [t.drop([n for n in t.column_names if n.startswith("top")]) for t in alike]
    assert alike[0].equals(alike[1])
    told = [{k: v for k, v in r.facts.items() if k != "seconds"} for r in (whole, apart)]
    assert told[0] == told[1]
    assert voice.heard[-1] == "1.00 3 of 3 files"
    assert apart.path == out
    if verb == "score":
        assert work(out=folder / "again", ray=True).next.endswith("--overwrite --ray")


def test_what_a_worker_refuses_is_an_error_here(cluster):
    made = launch.apart(ray_jobs.Squares(), 5, 2, SILENT)
    assert sorted(made) == [0, 1, 4, 9, 16]
    with pytest.raises(DataError, match="piece 1 is damaged") as refused:
        list(launch.apart(ray_jobs.Squares(1), 3, 1, SILENT))
    assert refused.value.fix == "get it again"


@pytest.mark.nightly
def test_workers_that_train_together(cluster, tmp_path):
    voice = Voice()
    assert launch.together(ray_jobs.summed, 2, voice, "cpu") == 3
    assert voice.heard == ["one line", "0.50 half of it"]
    with pytest.raises(DataError, match="no such file") as refused:
        launch.together(ray_jobs.Refused(tmp_path), 2, voice, "cpu")
    assert refused.value.details == {"path": "x"}
    assert len(list(tmp_path.glob("1-*"))) == 1  # it was not tried again
    assert launch.together(ray_jobs.Killed(tmp_path), 2, voice, "cpu") == 3
    assert (tmp_path / "killed").exists()


def started_by(process):
    """Return the numbers of the processes that a process has started, and of those they have."""
    found = []
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended meanwhile
            for child in children.read_text().split():
                found += [int(child), *started_by(child)]
    return found


def named(process):
    """Return what a process calls itself."""
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    return ""


class Deadly(Voice):
    """Take what leads the workers away as soon as they are heard."""

    def say(self, line):
        super().say(line)
        ours = started_by(os.getpid())  # never a process of another run
        (leads,) = (pid for pid in ours if named(pid).startswith("ray::TrainController"))
        os.kill(leads, signal.SIGKILL)


@pytest.mark.nightly
def test_a_job_that_ray_itself_gives_up_is_told(cluster):
    voice = Deadly()
    with pytest.raises(Stopped, match="ActorDied") as stopped:
        launch.together(ray_jobs.waiting, 1, voice, "cpu")
    assert stopped.value.code == "E502"
    assert voice.heard == ["one line"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["score", "alone.vae", "parts", "--ray", "--out", "x.csv"], "E236", "--out x/"),
        (["score", "alone.vae", "parts", "--ray", "--out", "parts"], "E236", "another --out"),
        (
            ["score", "alone.vae", "parts", "--ray", "--out", "parts", "--overwrite"],
            "E236",
            "would replace the data",
        ),
        (["score", "alone.vae", "parts", "--ray", "--out", "x", "--fdr", "5%"], "E236", "--fdr"),
        (["score", "alone.vae", "parts", "--workers", "2", "--out", "x.csv"], "E236", "--ray"),
        (["embed", "alone.vae", "parts", "--ray", "--workers", "0", "--out", "x"], "E240", "1"),
        (["fit", "tx.parquet", "--workers", "2"], "E236", "--ray --workers 2"),
        (["fit", "tx.parquet", "--ray", "--workers", "few"], "E231", "--workers"),
        (["fit", "none.parquet", "--ray"], "E001", "none.parquet"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(
    words, code, told, folder, alone, monkeypatch, capsys
):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(launch, "cluster", lambda: pytest.fail("Ray was started"))
    assert main.main([*words, "--json"]) in (2, 3)
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == code, error
    assert told in json.dumps(error)


def test_a_slash_at_its_end_makes_a_name_with_dots_a_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert clustered.check_parts("scores.2026/", False, "parts") == tmp_path / "scores.2026"
    with pytest.raises(UsageError) as refused:
        clustered.check_parts("scores.2026.parquet", False, "parts")
    assert refused.value.fix == "--out scores.2026/"


def test_without_ray_or_its_cluster_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "library", partial(_lacking, launch.library))
    with pytest.raises(ResourceError) as lacks, launch.cluster():
        pass
    assert lacks.value.code == "E310"
    assert "lowerbound[ray]" in lacks.value.fix


def test_an_address_where_nothing_listens_is_refused_at_once(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(launch, "_part", lambda name: Unstarted)
    for given in (address, f"ray://{address}"):
        monkeypatch.setenv("RAY_ADDRESS", given)
        with pytest.raises(ResourceError, match=address) as refused, launch.cluster():
            pass
        assert refused.value.code == "E311"


class Unstarted:
    """Ray before anything of it runs: all that is asked of it before the address is tried."""

    exceptions = ray_exceptions

    @staticmethod
    def is_initialized():
        return False


def test_a_cluster_that_wants_a_token_says_how_to_give_it(monkeypatch):
    class Locked(Unstarted):
        @staticmethod
        def init(**how):
            raise ray_exceptions.AuthenticationError("the token is missing")

    monkeypatch.setattr(launch, "_part", lambda name: Locked)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ResourceError, match="the token is missing") as refused, launch.cluster():
        pass
    assert refused.value.code == "E311"
    assert "RAY_AUTH_MODE=token" in refused.value.fix


def _lacking(library, name, what, extra):
    return library(f"no_{name}", what, extra)


def test_a_table_that_is_held_needs_an_output(alone):
    with pytest.raises(UsageError, match="--ray writes files"):
        score(alone.model, table(), ray=True)
