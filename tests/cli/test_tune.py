"""The search for settings: what it tries, how it judges, and that it goes on where it stopped."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from lowerbound import Model, Plan
from lowerbound.cli import main
from lowerbound.cli.commands.tune import tune
from lowerbound.errors import DataError, NumericError, ResourceError, UsageError
from lowerbound.files.read import read
from lowerbound.training import tune as tuning
from lowerbound.training.tune import Parts, Search, comparable

PLAN = Plan(preset="fast", max_epochs=4)
SAYS = {"preset": "fast", "max_epochs": 4}


def numbers(rows=200):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 2)) @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(rows, 4))
    return pa.table({name: x[:, j] for j, name in enumerate("abcd")})


def mixed():
    kinds = np.random.default_rng(1).choice(["x", "y"], 200)
    return numbers().append_column("kind", pa.array(kinds))


def drawn(search):
    return [replace(trial, seconds=0.0) for trial in search.done]


def test_the_first_trial_is_the_plan_as_it_is_and_judged_rows_are_not_learned_from():
    frame = read(numbers())
    search = Search(frame, PLAN)
    search.run(2)
    first, second = search.done
    assert first.changes == {"recipe": "table", "latent": 3, "learning_rate": 3e-3, "beta": 1.0}
    assert second.changes != first.changes
    learned, judged = search.parts
    assert (learned.rows, judged.rows) == (160, 40)
    rows = [{tuple(row.values()) for row in part.table.to_pylist()} for part in (learned, judged)]
    assert not rows[0] & rows[1]
    assert len(rows[0] | rows[1]) == 200
    trained = tuning.learn(learned, PLAN)
    nats = trained.log_likelihood(judged, tuning.SCORE_SAMPLES)
    assert first.log_p == pytest.approx(nats.mean(), abs=1e-5)
    assert first.error == pytest.approx(nats.std(ddof=1) / 40**0.5, abs=1e-5)
    assert search.ranked[0].log_p == max(first.log_p, second.log_p)


def test_a_search_that_was_stopped_goes_on_as_it_would_have(tmp_path, monkeypatch):
    frame, whole = read(numbers()), Search(read(numbers()), PLAN)
    whole.run(4)
    Search(frame, PLAN, tmp_path).run(2)
    real = tuning.learn

    def stopped(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "learn", stopped)
    with pytest.raises(KeyboardInterrupt):
        Search(frame, PLAN, tmp_path).run(4)
    monkeypatch.setattr(tuning, "learn", real)
    again = Search(frame, PLAN, tmp_path)
    assert drawn(again) == drawn(whole)[:2]
    again.run(4)
    assert drawn(again) == drawn(whole)
    with pytest.raises(UsageError, match="another search") as caught:
        Search(frame, replace(PLAN, seed=1), tmp_path)
    assert caught.value.code == "E250"


def test_only_recipes_are_compared_whose_likelihood_means_the_same():
    assert comparable(PLAN, read(numbers())) == ["table", "ladder", "iaf", "sigma"]
    assert comparable(PLAN, read(mixed())) == ["table"]
    kept = np.where(np.arange(200) % 3 == 0, 0.0, numbers()["a"].to_numpy())
    assert comparable(PLAN, read(numbers().set_column(0, "a", pa.array(kept)))) == ["table"]
    with pytest.raises(UsageError, match="cannot be compared") as caught:
        Search(read(mixed()), PLAN, names=["table", "sigma"])
    assert caught.value.code == "E241"


def test_a_trial_that_diverges_is_one_that_failed(monkeypatch):
    real, calls = tuning.learn, []

    def diverging(data, plan, **more):
        calls.append(plan)
        if len(calls) == 2:
            raise NumericError("E401", "the loss was not finite")
        return real(data, plan, **more)

    monkeypatch.setattr(tuning, "learn", diverging)
    search = Search(read(numbers()), PLAN)
    search.run(3)
    assert [trial.failure != "" for trial in search.done] == [False, True, False]
    assert len(search.ranked) == 2


def test_what_cannot_be_searched(monkeypatch):
    with pytest.raises(DataError, match="at least 10 rows") as caught:
        Parts.of(read(numbers(9)), 0)
    assert caught.value.code == "E075"
    with pytest.raises(UsageError, match="needs a table"):
        Parts.of(read(np.zeros((20, 8, 8), np.uint8)), 0)
    with pytest.raises(UsageError) as caught:
        Plan(learning_rate=0.0)
    assert caught.value.code == "E240"

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(tuning.importlib, "import_module", absent)
    with pytest.raises(ResourceError, match="optuna") as lacks:
        Search(read(numbers()), PLAN)
    assert lacks.value.code == "E310"


def test_given_values_are_not_searched_for():
    plan = replace(PLAN, latent=2, learning_rate=1e-3, settings={"beta": 2.0})
    search = Search(read(mixed()), plan)
    search.run(1)
    assert search.done[0].changes == {}
    assert search.best() == plan


def test_the_command_shows_a_leaderboard_and_saves_the_best(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import pyarrow.csv

    pyarrow.csv.write_csv(numbers(), "t.csv")
    words = ["tune", "t.csv", "--preset", "fast", "--max-epochs", "4", "--trials", "3"]
    assert main.main([*words, "--out", "m.vae"]) == 0
    shown = capsys.readouterr().out
    assert "log p of held-out rows" in shown
    assert "Best       trial" in shown
    assert not (tmp_path / "m.tune").exists()
    assert not (tmp_path / "m.run").exists()
    found = tune("t.csv", trials=3, **SAYS)
    best = next(t for t in found.facts["trials"] if t["number"] == found.facts["best"])
    model = Model.load("m.vae")
    assert model.recipe.name == best["changes"]["recipe"]
    assert model.facts["plan"]["learning_rate"] == best["changes"]["learning_rate"]
    assert main.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [t["log_p"] for t in told["trials"]] == [t["log_p"] for t in found.facts["trials"]]
    assert "--learning-rate" in found.next
    assert found.next.endswith(" --out M.vae --preset fast --max-epochs 4")
    (tmp_path / "n.tune").mkdir()
    assert main.main([*words, "--out", "n.vae"]) == 2
    assert "E221" in capsys.readouterr().err


def test_a_time_limit_ends_the_search():
    found = tune(numbers(), trials=50, time_limit="0.01s", **SAYS)
    assert len(found.facts["trials"]) == 1
