"""States of a fit: exact resume, refusals, damage, and what a commit costs."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lowerbound import noise, recipes
from lowerbound.coding.rows import Dense, fingerprint
from lowerbound.errors import ModelFileError, ResourceError, UsageError
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.training.engine import loop
from lowerbound.training.engine.checkpoints import OnDisk
from lowerbound.training.engine.engine import Engine
from lowerbound.training.engine.run_folder import RunFolder
from lowerbound.training.engine.settings import Budget, Optimiser
from lowerbound.training.fit import default_latent, learn
from lowerbound.training.plan import Plan


def rows(n=400, d=4):
    return torch.randn(n, d, generator=noise.generator("resuming", n, d))


class Interrupt(Exception):
    """Stands for whatever ends a process."""


def fit(checkpoints, *, fail_after=None, epochs=100, **engine):
    with noise.isolated(1):
        model = recipes.table(["real"] * 4, [1] * 4, 2, (16,), gaps=0.1)
    checks = []

    def report(check, budget):
        checks.append(check)
        if len(checks) == fail_after:
            raise Interrupt

    x = rows()
    history = loop.fit(
        Elbo(model),
        Dense(x[:300]),
        Dense(x[300:]),
        budget=Budget(epochs=epochs, patience=100),
        optimiser=Optimiser(batch_size=50, ema=0.9, learning_rate=5e-3),
        engine=Engine(threads=1, **engine),
        checkpoints=checkpoints,
        report=report,
    )
    return model, history


def python(script, *arguments):
    """Begin `script` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        stdout=subprocess.PIPE,
        text=True,
    )


def same(one, other):
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_fit_that_is_broken_off_ends_as_if_it_never_was(tmp_path, precision):
    undisturbed, history = fit(None, precision=precision)
    with pytest.raises(Interrupt):
        fit(OnDisk(tmp_path, every=0.0, share=1.0), fail_after=3, precision=precision)
    step = OnDisk(tmp_path).latest().values["step"]
    assert 100 < step < 600
    resumed, again = fit(OnDisk(tmp_path), precision=precision)
    assert same(undisturbed, resumed)
    untimed = [[check[:7] for check in h.checks] for h in (history, again)]
    assert untimed[0] == untimed[1]
    assert again.best == history.best


def test_a_finished_fit_is_not_repeated(tmp_path):
    first, history = fit(OnDisk(tmp_path), epochs=20)
    second, again = fit(OnDisk(tmp_path), fail_after=1, epochs=20)  # no check, so no failure
    assert same(first, second)
    assert again.checks == history.checks


def test_two_commits_are_kept_and_a_damaged_one_is_passed_over(tmp_path):
    kept = OnDisk(tmp_path)
    for step in range(5):
        kept.commit({"step": step}, {"x": torch.full((3,), float(step))})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["commit-00000004", "commit-00000005"]
    damaged = tmp_path / "commit-00000005" / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    found = OnDisk(tmp_path).latest()
    assert found.values["step"] == 3
    assert found.tensors["x"].tolist() == [3.0] * 3
    shutil.rmtree(tmp_path / "commit-00000004")
    with pytest.raises(ModelFileError, match="sha256") as caught:
        OnDisk(tmp_path).latest()
    assert caught.value.code == "E120"


def test_what_a_killed_commit_left_is_removed(tmp_path):
    OnDisk(tmp_path).commit({"step": 1}, {"x": torch.zeros(1)})
    left = tmp_path / ".commit-00000002.1234.saving-abc"
    left.mkdir()
    (left / "half").touch()
    OnDisk(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["commit-00000001"]


def test_a_full_disk_leaves_the_last_commit(tmp_path):
    kept, before = OnDisk(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    kept.commit({"step": 1}, {"x": torch.zeros(100)})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(ResourceError, match="disk full") as caught:
            kept.commit({"step": 2}, {"x": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (caught.value.code, caught.value.exit_code) == ("E301", 5)
    assert OnDisk(tmp_path).latest().values["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["commit-00000001"]


def test_no_fit_begins_without_room_for_its_states(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match="disk full") as caught:
        fit(OnDisk(tmp_path))
    assert caught.value.code == "E301"


def test_commits_take_at_most_two_percent_of_the_time(tmp_path):
    kept, times = OnDisk(tmp_path, every=0.0), []
    kept.commit({"step": 1}, {"x": torch.zeros(100_000)})
    assert not kept.due()
    kept._took, now = 0.1, kept._ended
    for after in (9.9, 10.1):
        kept._ended = now - after
        times.append(kept.due())
    assert times == [False, True]


CONFIGURATION = {"plan": {"seed": 0, "preset": "fast"}, "data": {"digest": "a"}}


def begun(path, configuration=CONFIGURATION, **options):
    with RunFolder(path, **options) as run:
        run.configure(configuration)
        run.stage("first").commit({"step": 7}, {"x": torch.zeros(1)})


def test_a_changed_configuration_is_refused_with_the_difference(tmp_path):
    path = tmp_path / "tx.run"
    begun(path)
    changed = {"plan": {"seed": 1, "preset": "fast"}, "data": {"digest": "a"}}
    with pytest.raises(UsageError) as caught, RunFolder(path) as run:
        run.configure(changed)
    assert caught.value.code == "E250"
    assert "plan.seed was 0, is 1" in caught.value.message
    assert caught.value.details["differences"] == ["plan.seed was 0, is 1"]
    with RunFolder(path) as run:  # and nothing was lost
        run.configure(CONFIGURATION)
        assert run.stage("first").latest().values["step"] == 7
    with RunFolder(path, fresh=True) as run:
        run.configure(changed)
        assert not run.committed()
    assert not path.exists()


def test_a_run_without_a_state_binds_nobody_and_leaves_nothing(tmp_path):
    path = tmp_path / "tx.run"
    with RunFolder(path) as run:
        run.configure(CONFIGURATION)
    assert not path.exists()


def test_the_run_remembers_whether_it_may_replace(tmp_path):
    path = tmp_path / "tx.run"
    assert not RunFolder.allows_replacing(path)
    begun(path)
    assert not RunFolder.allows_replacing(path)
    with RunFolder(path) as run:
        run.configure(CONFIGURATION)
        run.owns_output()
    assert RunFolder.allows_replacing(path)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "tx.run").mkdir()
    (tmp_path / "tx.run" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError) as caught, RunFolder(tmp_path / "tx.run"):
        pass
    assert caught.value.code == "E221"
    assert (tmp_path / "tx.run" / "letter.txt").read_text() == "dear"


def test_a_place_that_cannot_be_written_is_one_error(tmp_path):
    with pytest.raises(ResourceError) as caught, RunFolder(tmp_path / "no" / "tx.run"):
        pass
    assert caught.value.code == "E302"


HOLDER = """
import sys, time
from pathlib import Path
from lowerbound.training.engine.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])) as run:
    print("locked", flush=True)
    time.sleep(60)
"""


def test_two_trainers_in_one_folder(tmp_path):
    path = tmp_path / "tx.run"
    holder = python(HOLDER, path)
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UsageError, match=f"pid {holder.pid}") as caught:
            RunFolder(path).__enter__()
        assert caught.value.code == "E251"
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    begun(path)  # the lock of a dead process is nobody's


def test_the_fingerprint_sees_every_value_and_the_order():
    x = rows()
    other = x.clone()
    other[123, 2] += 1e-6
    prints = [fingerprint(Dense(values)) for values in (x, x.clone(), other, x.flip(0))]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    assert fingerprint(Dense(x), chunk=7) == prints[0]


def test_states_hold_no_code(tmp_path):
    fit(OnDisk(tmp_path), epochs=20)
    commits = list(tmp_path.glob("commit-*"))  # two, where the fit took longer than a few seconds
    assert commits
    for commit in commits:
        assert {path.suffix for path in commit.iterdir()} == {".json", ".safetensors"}
        json.loads((commit / "state.json").read_text())


def test_a_fit_in_two_stages_goes_on_in_the_second(tmp_path):
    settings = {"hidden": [16, 16], "beta": 4.0, "proposal": False}
    plan = Plan("beta", settings, preset="fast", latent="auto", max_epochs=60)
    data = rows(500, 2) @ torch.randn(2, 16, generator=noise.generator("mixing"))
    data = (data + 0.3 * rows(500, 16)).numpy()
    undisturbed = learn(data, plan)
    assert undisturbed.latent < default_latent({"features": 16})
    said, path = [], tmp_path / "m.run"

    def broken(check, budget):
        if any("fitting again" in line for line in said):
            raise Interrupt

    with RunFolder(path, every=0.0) as run, pytest.raises(Interrupt):
        learn(data, plan, run=run, report=broken, say=said.append)
    assert sorted(p.name for p in path.iterdir() if p.is_dir()) == ["first", "narrow"]
    checks = []
    with RunFolder(path, every=0.0) as run:
        resumed = learn(data, plan, run=run, report=lambda check, budget: checks.append(check))
    assert same(undisturbed.model, resumed.model)
    assert len(checks) <= len(undisturbed.facts["history"]["checks"])  # the first was not repeated
