"""The gate for pipelines: every problem in one answer, exit code 8, and what passes."""

import csv

import pytest

from lowerbound.errors import CheckFailed, UsageError
from lowerbound.tasks.check import Limits
from lowerbound.tasks.trained import Model


def rewritten(folder, name, change):
    """Write tx.csv again with every row changed; `change` takes the row's number and a dict."""
    with open(folder / "tx.csv", newline="", encoding="utf-8") as file:
        rows = [change(i, row) for i, row in enumerate(csv.DictReader(file))]
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)


def test_rows_of_training_pass(run):
    done = run("check", "tx.vae", "tx.csv")
    assert done.code == 0
    assert done.err == ""
    assert done.out.startswith("OK: 260 rows passed all checks")
    assert max(map(len, done.out.splitlines())) <= 80
    for name in ("schema", "drift", "scores", "alarms"):
        assert name in done.out
    assert done.out.rstrip().splitlines()[-1].startswith("next:  lowerbound score tx.vae tx.csv")


def test_every_problem_is_in_one_answer_and_exit_8(run, folder):
    def change(i, row):
        row["Fee"] = row.pop("fee")  # renamed
        row["amount"] = float(row["amount"]) * 1e12  # another unit
        row["visits"] = f"v{i}"  # not numbers
        row["country"] = "XX"  # not seen
        row["more"] = i  # not of the model
        return row

    rewritten(folder, "bad.csv", change)
    done = run("check", "tx.vae", "bad.csv")
    assert done.code == 8
    assert done.out.startswith("FAILED: ")
    assert max(map(len, done.out.splitlines())) <= 80
    assert "error[E604]" in done.err
    assert "--rename Fee=fee" in done.err
    for told in ("column 'fee' is missing", "has the unit changed?", "visits", "country"):
        assert told in done.err
    assert "Traceback" not in done.err

    report = run("check", "tx.vae", "bad.csv", "--json")
    assert report.code == 8
    assert not report.facts["passed"]
    assert report.error["code"] == "E604"
    assert report.error["exit"] == 8
    assert report.error["details"]["problems"] == report.facts["problems"]
    found = {(p["check"], p["column"]): p["code"] for p in report.facts["problems"]}
    assert found["schema", "fee"] == "E031"
    assert found["schema", "visits"] == "E032"
    assert ("drift", "country") in found
    assert any("'more'" in note for note in report.facts["notes"])
    assert "scores" not in report.facts["drift"]


def test_a_rename_repairs(run, folder):
    def change(i, row):
        row["Fee"] = row.pop("fee")
        return row

    rewritten(folder, "theirs.csv", change)
    failed = run("check", "tx.vae", "theirs.csv")
    assert failed.code == 8
    assert "fix: lowerbound check tx.vae theirs.csv --rename Fee=fee" in failed.err
    assert run("check", "tx.vae", "theirs.csv", "--rename", "Fee=fee").code == 0


def test_text_that_is_numbers_passes_with_a_note(run, folder):
    def change(i, row):
        row["visits"] = f" {row['visits']} "
        return row

    rewritten(folder, "text.csv", change)
    done = run("check", "tx.vae", "text.csv", "--json")
    assert done.code == 0, done.out


def test_drift_fails_unless_it_is_ignored_or_small(run, folder):
    def change(i, row):
        row["country"] = "DE"
        return row

    rewritten(folder, "moved.csv", change)
    words = ("check", "tx.vae", "moved.csv")
    done = run(*words, "--json")
    assert done.code == 8
    assert [(p["check"], p["column"]) for p in done.facts["problems"]] == [("drift", "country")]
    assert run(*words, "--ignore", "country,ts").code == 0
    assert run(*words, "--max-drift", "0.9").code == 0
    assert run(*words, "--max-drift", "1").code == 0
    assert run(*words, "--level", "1e-30").code == 0


def test_alarms_and_latency_have_limits(run):
    words = ("check", "tx.vae", "tx.csv", "--json")
    flagged = run(*words).facts["drift"]["alarms"]["flagged"]
    assert flagged > 0
    done = run(*words, "--max-alarm-rate", "0.01%")
    assert done.code == 8
    assert [p["check"] for p in done.facts["problems"]] == ["alarms"]
    assert run(*words, "--max-alarm-rate", "50%").code == 0

    slow = run(*words, "--max-p99", "0.001ms")
    assert slow.code == 8
    assert [p["check"] for p in slow.facts["problems"]] == ["latency"]
    latency = slow.facts["latency"]
    assert 0 < latency["p50"] <= latency["p99"]
    assert run(*words, "--max-p99", "1m").code == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--max-drift", "x"), "E231"),
        (("--max-drift", "-0.1"), "E240"),
        (("--level", "0"), "E240"),
        (("--max-p99", "0s"), "E240"),
        (("--max-alarm-rate", "3"), "E231"),
        (("--ignore", "contry"), "E203"),
    ],
)
def test_wrong_limits_are_told(run, words, code):
    done = run("check", "tx.vae", "tx.csv", *words, "--json")
    assert done.error["code"] == code
    assert done.code == 2
    assert done.out == ""


def test_data_that_cannot_be_read_are_errors_of_their_own(run, folder):
    (folder / "ragged.csv").write_text("amount,fee\n1\n")
    done = run("check", "tx.vae", "ragged.csv", "--json")
    assert (done.code, done.error["code"]) == (3, "E010")


def test_check_in_python(folder):
    model = Model.load("tx.vae")
    report = model.check("tx.csv")
    assert report.passed
    assert report.error() is None
    report.raise_if_failed()
    assert str(report).startswith("passed: 260 rows")

    failed = model.check("tx.csv", max_alarm_rate=0.0)
    assert not failed.passed
    assert failed.of("alarms")
    assert not failed.of("schema", "drift")
    with pytest.raises(CheckFailed, match="E604") as caught:
        failed.raise_if_failed()
    assert caught.value.exit_code == 8
    assert "<li>alarms: " in failed._repr_html_()
    with pytest.raises(UsageError, match="E240"):
        Limits(max_drift=2.0)
