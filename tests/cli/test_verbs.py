"""Every verb from the command line, on a table that nobody prepared."""

import gzip
import inspect
import json
import random
import tomllib

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest

import lowerbound
from lowerbound.cli.verbs import VERBS

VISIBLE = ["amount", "fee", "country", "ts", "is_new", "visits"]


def read(path):
    options = pv.ConvertOptions(column_types={"account": pa.string()}, strings_can_be_null=True)
    return pv.read_csv(path, convert_options=options)


def rows_of(path):
    header, *lines = path.read_text("utf-8").splitlines()
    return header, lines


def test_inspect_shows_every_column_in_80(run):
    done = run("inspect", "tx.csv")
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    for name, kind in [
        ("account", "id"),
        ("amount", "positive"),
        ("country", "categorical"),
        ("ts", "datetime"),
        ("channel", "constant"),
        ("note", "text"),
        ("is_new", "binary"),
    ]:
        line = next(line for line in done.out.splitlines() if line.strip().startswith(name))
        assert kind in line
    assert "260 rows x 9 columns" in done.out
    assert done.out.rstrip().endswith("next:  lowerbound fit tx.csv")


def test_inspect_takes_types_drop_and_rename(run):
    words = ["--types", "visits=ordinal,is_new=categorical", "--drop", "note", "--json"]
    facts = run("inspect", "tx.csv", *words, "--rename", "fee=cost").facts
    kinds = {row["column"]: row["kind"] for row in facts["columns"]}
    assert kinds["visits"] == "ordinal"
    assert kinds["is_new"] == "categorical"
    assert "cost" in kinds
    assert not {"note", "fee"} & set(kinds)


def test_fit_says_what_it_does_and_what_came_of_it(run, folder):
    done = run("fit", "tx.csv", "--preset", "fast", "--max-epochs", 2, "--out", "m.vae")
    assert done.code == 0
    assert f"lowerbound {lowerbound.__version__} on cpu" in done.err
    for word in ("data", "columns", "split", "preset", "output", "Ctrl-C"):
        assert word in done.err
    for word in ("trained in", "Health", "Threshold", "95 % interval", "sha256"):
        assert word in done.out
    *_, path, after = done.out.rstrip().splitlines()
    assert path == str(folder / "m.vae")
    assert after.startswith("next:  lowerbound score m.vae")


def test_fit_names_the_model_after_the_data(run, folder):
    (folder / "data").mkdir()
    with gzip.open(folder / "data" / "some.csv.gz", "wb") as file:
        file.write((folder / "tx.csv").read_bytes())
    done = run("fit", "data/some.csv.gz", "--preset", "fast", "--max-epochs", 1, "-q")
    assert done.out == f"{folder / 'some.vae'}\n"
    assert done.err == ""


def test_same_seed_same_model(run):
    words = ["fit", "tx.csv", "--preset", "fast", "--max-epochs", 1, "--seed", 5]
    assert run(*words, "--out", "a.vae", "-q").code == 0
    assert run(*words, "--out", "b.vae", "-q").code == 0
    assert run("score", "a.vae", "tx.csv", "--out", "a.csv").code == 0
    assert run("score", "b.vae", "tx.csv", "--out", "b.csv").code == 0
    with open("a.csv") as a, open("b.csv") as b:
        assert a.read() == b.read()


def test_dry_run_keeps_nothing(run, folder):
    done = run("fit", "tx.csv", "--dry-run", "--preset", "fast", "--out", "dry.vae", "--json")
    assert done.code == 0
    assert done.facts["dry_run"]
    assert done.facts["longest_seconds"] > 0
    assert not (folder / "dry.vae").exists()


def test_config_round_trip(run, folder):
    flags = ["--set", "beta=2", "--types", "visits=ordinal", "--alarm-rate", "5%", "--latent", "4"]
    flags += ["--time-limit", "1h30m", "--drop", "note", "--set", "hidden=[32, 32]"]
    done = run("fit", "tx.csv", *flags, "--print-config")
    config = tomllib.loads(done.out)
    assert config["alarm_rate"] == 0.05
    assert config["time_limit"] == 5400
    assert config["settings"] == {"beta": 2, "hidden": [32, 32]}
    (folder / "c.toml").write_text(done.out)
    assert run("fit", "tx.csv", "--config", "c.toml", "--print-config").out == done.out
    other = run("fit", "tx.csv", "--config", "c.toml", "--latent", 8, "--print-config")
    assert tomllib.loads(other.out) == {**config, "latent": 8}
    words = ["--config", "c.toml", "--preset", "fast", "--max-epochs", 1, "--out", "c.vae"]
    fitted = run("fit", "tx.csv", *words, "--json").facts
    assert fitted["latent"] == 4
    assert fitted["plan"]["settings"] == {"beta": 2, "hidden": [32, 32]}
    assert "trained by the ELBO, beta 2; on " in run("info", "c.vae").out
    info = run("info", "c.vae", "--json").facts
    assert info["arguments"]["hidden"] == [32, 32]
    assert "note" not in [column["column"] for column in info["columns"]]


def test_score_columns_order_and_ids(run, folder):
    done = run("score", "tx.vae", "tx.csv", "--out", "s.csv", "--explain", 2)
    assert done.code == 0
    table = read("s.csv")
    assert table.column_names == [
        "row",
        "account",
        "anomaly_score",
        "p_value",
        "is_anomaly",
        *[f"top{r}_{what}" for r in (1, 2) for what in ("column", "nats", "value", "expected")],
    ]
    assert table["row"].to_pylist() == list(range(260))
    assert table["account"].to_pylist() == [f"{7 * i:06d}" for i in range(260)]
    score, p = table["anomaly_score"].to_numpy(), table["p_value"].to_numpy()
    order = np.argsort(score)
    assert (np.diff(p[order]) <= 0).all()
    top = int(np.argmax(score))
    assert table["top1_column"][top].as_py() in VISIBLE
    *_, path, after = done.out.rstrip().splitlines()
    assert path == str(folder / "s.csv")
    assert after.startswith("next:  lowerbound embed")
    assert "missing values: fee" in done.out


def test_suggested_commands_repeat_the_flags(run, folder):
    lines = (folder / "tx.csv").read_text().splitlines()[:41]
    (folder / "theirs.csv").write_text("\n".join([lines[0].replace("fee", "Fee"), *lines[1:]]))
    renames, fdr = ("--rename", "Fee=fee"), ("--fdr", "10%")
    told = {
        ("score", *fdr): "score tx.vae theirs.csv --out o.csv --explain 3 --overwrite --fdr 10%",
        ("score", "--explain", 1): "embed tx.vae theirs.csv --out embedding.csv",
        ("reconstruct",): "score tx.vae theirs.csv --out scores.csv --explain 3",
    }
    for (verb, *flags), after in told.items():
        words = [verb, "tx.vae", "theirs.csv", *flags, *renames, "--out", "o.csv", "--overwrite"]
        shown = run(*words).out
        assert shown.rstrip().endswith(f"next:  lowerbound {after} --rename Fee=fee")
    words = ["fit", "theirs.csv", "--rename", "Fee=fee", "--preset", "fast", "--max-epochs", 1]
    shown = run(*words, "--out", "n.vae", "--dry-run").out
    again = "lowerbound fit theirs.csv --rename Fee=fee --preset fast --max-epochs 1 --out n.vae"
    assert shown.rstrip().endswith(f"next:  {again}")


def test_score_is_a_function_of_the_row(run, folder):
    header, lines = rows_of(folder / "tx.csv")
    assert run("score", "tx.vae", "tx.csv", "--out", "a.parquet").code == 0
    assert run("score", "tx.vae", "tx.csv", "--out", "b.parquet").code == 0
    assert (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()
    whole = {r["account"]: r["anomaly_score"] for r in pq.read_table("a.parquet").to_pylist()}
    shuffled = random.Random(0).sample(lines, len(lines))
    for name, some in [("shuffled.csv", shuffled), ("few.csv", lines[40:57])]:
        (folder / name).write_text("\n".join([header, *some]) + "\n")
        out = name.replace("csv", "parquet")
        assert run("score", "tx.vae", name, "--out", out).code == 0
        part = pq.read_table(out).to_pylist()
        assert [r["account"] for r in part] == [line.split(",")[0] for line in some]
        assert all(whole[r["account"]] == r["anomaly_score"] for r in part)


def test_score_reports_what_it_met(run, folder):
    text = (folder / "tx.csv").read_text().replace(",FR,", ",XX,")
    (folder / "odd.csv").write_text(text)
    done = run("score", "tx.vae", "odd.csv", "--out", "s.tsv", "--json")
    assert done.facts["unseen"] == {"country": text.count(",XX,")}
    assert done.facts["missing"]["fee"] > 0
    assert done.facts["out"] == str(folder / "s.tsv")
    plain = run("score", "tx.vae", "odd.csv", "--out", "s.tsv", "--overwrite")
    assert "not seen in training, treated as unknown: country" in plain.out


def test_score_renames_and_ignores_order_and_extra_columns(run, folder):
    assert run("score", "tx.vae", "tx.csv", "--out", "a.parquet").code == 0
    table = read("tx.csv")
    names = ["Betrag" if n == "amount" else n for n in table.column_names]
    other = table.rename_columns(names).select(names[::-1]).append_column("more", [[1] * 260])
    pq.write_table(other, "other.parquet")
    failed = run("score", "tx.vae", "other.parquet", "--out", "b.parquet", "--json")
    assert failed.code == 3
    assert failed.error["code"] == "E031"
    words = ["--out", "b.parquet", "--rename", "Betrag=amount"]
    assert run("score", "tx.vae", "other.parquet", *words).code == 0
    assert pq.read_table("a.parquet").equals(pq.read_table("b.parquet"))


def test_score_by_false_discovery_rate(run):
    facts = run("score", "tx.vae", "tx.csv", "--out", "s.csv", "--fdr", "20%", "--json").facts
    assert facts["false_discovery_rate"] == 0.2


def test_a_false_discovery_rate_that_is_too_fine_names_the_calibration_rows_it_takes(run):
    done = run("score", "tx.vae", "tx.csv", "--out", "s.csv", "--fdr", "1%", "--json")
    facts = done.facts
    assert facts["flagged"] == 0
    assert facts["calibration_rows_needed"] == 25_999
    (note,) = [note for note in facts["notes"] if "too coarse" in note]
    assert "26 calibration rows" in note
    assert "25,999 to flag a single row" in note
    done = run("score", "tx.vae", "tx.csv", "--out", "s.csv", "--fdr", "1%", "--overwrite")
    assert "too coarse" in done.out + done.err


def test_embed(run, folder):
    assert run("embed", "tx.vae", "tx.csv", "--out", "z.parquet").code == 0
    table = pq.read_table("z.parquet")
    assert table.column_names[:3] == ["row", "account", "z0"]
    assert run("embed", "tx.vae", "tx.csv", "--out", "z.npy").code == 0
    z = np.load("z.npy")
    assert z.shape == (260, table.num_columns - 2)
    assert np.array_equal(z[:, 0], table["z0"].to_numpy())


def test_sample_obeys_the_schema(run):
    done = run("sample", "tx.vae", "-n", 50, "--out", "x.csv", "--seed", 3)
    assert done.code == 0
    table = read("x.csv")
    assert table.num_rows == 50
    assert str(table["visits"].type) == "int64"
    assert set(table["channel"].to_pylist()) == {"web"}
    assert run("sample", "tx.vae", "-n", 50, "--out", "y.csv", "--seed", 3).code == 0
    assert read("y.csv").equals(table)


def test_sample_draws_known_levels_only(run):
    assert run("sample", "tx.vae", "-n", 200, "--out", "x.csv").code == 0
    assert set(read("x.csv")["country"].to_pylist()) <= {"FR", "DE", "US", "KY"}


def test_sample_given_values(run):
    words = ["--where", "country=US", "--where", "visits=3", "--where", "is_new=true", "--json"]
    done = run("sample", "tx.vae", "-n", 20, "--out", "x.csv", *words)
    assert done.code == 0
    assert done.facts["given"] == {"country": "US", "visits": 3, "is_new": True}
    assert done.facts["effective_samples"] > 1
    table = read("x.csv")
    assert set(table["country"].to_pylist()) == {"US"}
    assert set(table["visits"].to_pylist()) == {3}


def test_impute_keeps_observed_cells(run):
    before = read("tx.csv")
    assert run("impute", "tx.vae", "tx.csv", "--out", "full.csv").code == 0
    after = read("full.csv")
    assert after.column_names == before.column_names
    assert after["fee"].null_count == 0
    for name in before.column_names:
        pairs = zip(before[name].to_pylist(), after[name].to_pylist(), strict=True)
        assert all(old is None or old == new for old, new in pairs)


@pytest.mark.parametrize("more", [(), ("--draws", 2)])
def test_impute_without_a_column_that_was_constant(run, more):
    table = read("tx.csv").drop_columns(["channel"])
    assert read("tx.csv")["channel"].unique().to_pylist() == ["web"]
    pv.write_csv(table, "fewer.csv")
    done = run("impute", "tx.vae", "fewer.csv", "--out", "full.csv", *more)
    assert done.code == 0, done.err
    after = read("full.csv")
    assert [name for name in after.column_names if name != "draw"] == table.column_names
    assert after["fee"].null_count == 0


def test_impute_draws(run):
    done = run("impute", "tx.vae", "tx.csv", "--out", "d.parquet", "--draws", 3, "--json")
    gaps = read("tx.csv")["fee"].null_count
    assert done.facts["filled"] == gaps
    table = pq.read_table("d.parquet")
    assert table.num_rows == 3 * 260
    assert set(table["draw"].to_pylist()) == {0, 1, 2}


def test_reconstruct(run):
    assert run("reconstruct", "tx.vae", "tx.csv", "--out", "r.csv").code == 0
    table = read("r.csv")
    assert table["row"].to_pylist() == list(range(260))
    assert set(table["country"].to_pylist()) <= {"FR", "DE", "US", "KY"}


def test_evaluate(run):
    done = run("evaluate", "tx.vae", "tx.csv", "--samples", 16, "--json")
    assert done.facts["iw_nll"] <= -done.facts["elbo"] + 1e-6
    assert done.facts["rows"] == 260
    people = run("evaluate", "tx.vae", "tx.csv", "--samples", 16)
    assert "IW-NLL" in people.out
    assert f"{done.facts['elbo']:.4f}" in people.out


def test_verify_info_and_doctor(run):
    verified = run("verify", "tx.vae", "--json").facts
    assert verified["intact"]
    info = run("info", "tx.vae", "--json").facts
    assert info["sha256"] == verified["sha256"]
    assert info["rows"] == 260
    assert "DE, FR, KY, US" in run("info", "tx.vae").out
    assert "libraries" in run("doctor").out
    assert run("doctor", "tx.vae").code == 0
    facts = run("doctor", "tx.vae", "tx.csv", "--json").facts
    assert facts["rows"] == 260
    assert "health" in facts


def test_error_codes_are_described(run):
    done = run("error", "E031")
    assert done.out.startswith("E031: a column that the model needs is missing")
    assert run("error", "e31").out == done.out
    assert len(run("error", "--json").facts["codes"]) > 50


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "tx.csv"],
        ["score", "tx.vae", "tx.csv", "--out", "o.csv"],
        ["embed", "tx.vae", "tx.csv", "--out", "o.csv"],
        ["sample", "tx.vae", "-n", "5", "--out", "o.csv"],
        ["verify", "tx.vae"],
        ["doctor"],
        ["error", "E001"],
    ],
    ids=lambda words: words[0],
)
def test_json_is_one_object_and_nothing_else(run, words):
    done = run(*words, "--json")
    assert done.code == 0
    assert done.err == ""
    assert isinstance(json.loads(done.out), dict)


def test_input_files_stay_as_they_are(run, folder):
    before = (folder / "tx.csv").read_bytes()
    for verb in ("score", "embed", "impute", "reconstruct"):
        assert run(verb, "tx.vae", "tx.csv", "--out", f"{verb}.csv").code == 0
    assert (folder / "tx.csv").read_bytes() == before
    assert run("verify", "tx.vae").code == 0


def test_verbs_serve_python_too(folder):
    import polars as pl

    frame = pl.read_csv("tx.csv", schema_overrides={"account": pl.String})
    load = {name: verb.load() for name, verb in VERBS.items()}
    fitted = load["fit"](frame, preset="fast", max_epochs=1, types={"visits": "ordinal"})
    assert fitted.path is None
    scores = load["score"](fitted.model, frame, explain=1)
    assert isinstance(scores.table, pl.DataFrame)
    assert scores.table["account"].to_list() == frame["account"].to_list()
    assert scores.facts["rows"] == 260
    assert isinstance(load["impute"]("tx.vae", frame).table, pl.DataFrame)
    assert load["sample"](fitted.model, n=3, where={"country": "FR"}).table.num_rows == 3


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_documents_its_arguments(name):
    function = VERBS[name].load()
    text = inspect.getdoc(function)
    assert "Examples:\n    lowerbound" in text
    for argument in inspect.signature(function).parameters:
        assert f"\n    {argument}: " in text
    examples = text.split("Examples:\n")[1].split("\n\n")[0].splitlines()
    assert 1 <= len(examples) <= 3
    assert all(line.startswith(f"    lowerbound {name}") for line in examples)
    assert max(len(line) for line in examples) <= 80
    assert len(VERBS[name].summary) <= 50
