"""The page of `lowerbound explore`: rows, requests, the page in a browser, the cache."""

import json
import math
import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse

import lowerbound
import zoo
from explorers import Explorer, live, unpacked
from lowerbound.cli.main import main
from lowerbound.cli.work.explore import Order
from lowerbound.errors import DataError, ResourceError, UsageError
from lowerbound.web.explore import cache, columns, plane, process
from lowerbound.web.explore.changes import spelled
from lowerbound.web.explore.rows import _Arrow, check

FAST = ["--preset", "fast", "--max-epochs", "3", "-q"]
ODD = "weight <b>&\"'</script>"  # a name that must not become part of the page


def table(rows, seed):
    """Numbers that depend on each other, a category, a date, ids, a constant and gaps."""
    rng = np.random.default_rng(seed)
    size = rng.normal(50, 10, rows)
    frame = pd.DataFrame(
        {
            "id": [f"k{i:05d}" for i in range(rows)],
            "size": size.round(1),
            ODD: (3 * size + rng.normal(0, 3, rows)).round(1),
            "colour": rng.choice(["red", "blue", "green"], rows, p=[0.6, 0.3, 0.1]),
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 9000, rows), "h"),
            "visits": rng.poisson(3, rows),
            "new": rng.random(rows) < 0.3,
            "source": "web",
        }
    )
    frame["visits"] = frame["visits"].astype("Int64")
    frame.loc[rng.random(rows) < 0.1, "visits"] = pd.NA
    return frame


def models(folder):
    """Models of a table, of cells and of pictures, with data of each."""
    table(800, 0).to_parquet(folder / "tx.parquet")
    new = table(300, 1)
    new.loc[7, ODD] = 20.0  # of a size of about 50
    new.to_parquet(folder / "new.parquet")
    words = ["fit", str(folder / "tx.parquet"), "--alarm-rate", "2%", "--preset", "fast"]
    options = ["--max-epochs", "15", "--set", "chain=null", "-q"]
    assert main([*words, *options, "--out", str(folder / "tx.vae")]) == 0
    rng = np.random.default_rng(0)
    x = rng.random((120, 8, 8)) < np.linspace(0.1, 0.9, 8)
    np.save(folder / "x.npy", x)
    small = ["--recipe", "conv", "--set", "channels=[4]", "--latent", "2"]
    assert main(["fit", str(folder / "x.npy"), *small, *FAST, "--out", str(folder / "x.vae")]) == 0
    counts = rng.poisson(np.exp(2 + rng.normal(size=(300, 2)) @ rng.normal(size=(2, 12))))
    sparse.save_npz(folder / "c.npz", sparse.csr_matrix(counts))
    words = ["fit", str(folder / "c.npz"), "--recipe", "counts", "--latent", "2", "-q"]
    assert (
        main([*words, "--preset", "fast", "--max-epochs", "40", "--out", str(folder / "c.vae")])
        == 0
    )


@pytest.fixture(scope="module")
def made():
    return zoo.folder(models)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where selections and prepared rows go."""
    return tmp_path_factory.mktemp("explore")


def started(made, place, name, data):
    path = made / name
    order = Order(map="pca", folder=str(place), cache=str(place / "cache"))
    return live(lowerbound.load(path), path, str(made / data), order)


@pytest.fixture(scope="module")
def rows(made, place):
    with started(made, place, "tx.vae", "new.parquet") as (address, page):
        yield SimpleNamespace(at=address, page=page, model=page.model)


@pytest.fixture(scope="module")
def cells(made, place):
    with started(made, place, "c.vae", "c.npz") as (address, page):
        yield SimpleNamespace(at=address, page=page, model=page.model)


@pytest.fixture(scope="module")
def photos(made, place):
    with started(made, place, "x.vae", "x.npy") as (address, page):
        yield SimpleNamespace(at=address, page=page, model=page.model)


@pytest.fixture(scope="module")
def frame(made):
    return pd.read_parquet(made / "new.parquet")


def key(page, name):
    return next(each.key for each in page.explored.columns if each.name == name)


def highest(of):
    """The number of the row with the highest score."""
    return int(np.argmax(of.page.explored.scores["anomaly_score"].to_numpy()))


def bits(mask):
    return np.packbits(np.asarray(mask, bool), bitorder="little").tobytes()


# Rows.


def test_scores_and_latents_of_all_rows_are_those_of_the_library(rows, frame):
    explored, scores = rows.page.explored, rows.model.score(frame)
    for name in ("anomaly_score", "p_value", "is_anomaly"):
        assert explored.scores[name].to_pylist() == scores[name].tolist()
    assert np.array_equal(explored.z, rows.model.embed(frame))
    assert explored.points.shape == (300, 2)
    assert np.abs(explored.points).max() <= 1
    about = rows.at.get("api/about").facts
    assert (about["rows"], about["total"], about["holds"]) == (300, 300, "table")
    assert about["flagged"] == int(scores["is_anomaly"].sum())
    assert about["threshold"] == rows.model.alarm.threshold


def test_a_row_is_told_with_its_reasons(rows, frame):
    told = rows.at.get("api/row?row=7").facts
    assert told["row"] == 7
    assert told["is_anomaly"]
    assert told["reasons"][0]["column"] in (ODD, "size")
    values = {each["name"]: each["value"] for each in told["values"]}
    assert values[ODD] == "20"
    assert values["when"] == str(frame["when"][7])
    assert values["id"] == "k00007"
    assert list(values) == list(frame)
    brief = rows.at.get("api/row?at=7&brief=1").facts
    assert "reasons" not in brief
    assert brief["values"] == told["values"]


def test_what_if_is_the_score_of_the_library_to_the_last_bit(rows, frame):
    def scored(changes, **values):
        told = rows.at.post("api/what-if", {"at": 3, "changes": changes}).facts
        changed = frame.iloc[[3]].assign(**values)
        expected = rows.model.score(changed)
        assert told["anomaly_score"] == expected["anomaly_score"].iloc[0]
        assert told["p_value"] == expected["p_value"].iloc[0]
        assert told["is_anomaly"] == expected["is_anomaly"].iloc[0]
        return told

    first = scored({})
    assert first["anomaly_score"] == rows.page.explored.scores["anomaly_score"][3].as_py()
    assert scored({ODD: "20"}, **{ODD: 20.0})["anomaly_score"] > first["anomaly_score"]
    scored({"colour": "green", "size": "61.25"}, colour="green", size=61.25)
    scored({"visits": None}, visits=pd.array([pd.NA], "Int64"))
    scored({"visits": "9"}, visits=pd.array([9], "Int64"))
    scored({"when": "2024-05-01T12:00:00"}, when=pd.Timestamp("2024-05-01 12:00"))
    scored({"new": "true"}, new=True)
    unseen = scored({"colour": "violet"}, colour="violet")
    assert unseen["unseen"] == {"colour": 1}
    assert scored({"source": "shop"}, source="shop")["anomaly_score"] > first["anomaly_score"]


def test_values_that_cannot_be_scored_are_refused(rows):
    def code(body):
        answer = rows.at.post("api/what-if", body)
        assert answer.status >= 400
        return answer.error["code"]

    assert code({"at": 3, "changes": {"size": "wide"}}) in ("E032", "E034")
    assert code({"at": 3, "changes": {"sizes": "1"}}) == "E203"
    assert code({"at": 3, "changes": {"size": 1}}) == "E231"
    assert code({"at": 300, "changes": {}}) == "E353"
    assert code({"at": True, "changes": {}}) == "E353"
    assert code({"at": 3, "changes": []}) == "E263"
    assert rows.at.get("api/row?row=300").error["code"] == "E353"
    assert rows.at.get("api/row?row=-1").error["code"] == "E353"
    assert rows.at.get("api/row?row=x").error["code"] == "E263"
    assert rows.at.get("api/picture?at=1").error["code"] == "E246"


def test_the_nearest_usual_row(rows, frame):
    told = rows.at.post("api/usual", {"at": 7, "changes": {}}).facts
    assert told["found"]
    assert told["before"] > rows.model.alarm.threshold >= told["after"]
    (change,) = told["changes"]
    changes = {change["column"]: change["to"]}
    again = rows.at.post("api/what-if", {"at": 7, "changes": changes}).facts
    assert again["anomaly_score"] == told["after"]
    expected = rows.model.counterfactual(frame.iloc[[7]])
    assert told["after"] == expected["score_after"].iloc[0]
    assert rows.at.post("api/usual", {"at": 7, "changes": changes}).facts["changes"] == []


def test_colours(rows, frame):
    def colours(name):
        head, codes = unpacked(rows.at.get(f"api/colours?by={name}").body)
        assert len(codes) == 300
        return head, np.frombuffer(codes, np.uint8)

    head, codes = colours("score")
    scores = rows.page.explored.scores["anomaly_score"].to_numpy()
    assert head["kind"] == "number"
    order = np.argsort(scores)
    assert (np.diff(codes[order].astype(int)) >= 0).all()
    head, codes = colours("p")
    assert head["log"]
    assert head["high"] == 0
    head, codes = colours(key(rows.page, "colour"))
    assert head["levels"][:3] == ["red", "blue", "green"]
    assert [head["levels"][code] for code in codes] == frame["colour"].tolist()
    head, codes = colours(key(rows.page, "visits"))
    assert np.array_equal(codes == columns.STEPS, frame["visits"].isna())
    assert head["missing"] == int(frame["visits"].isna().sum())
    head, codes = colours(key(rows.page, "when"))
    assert head["kind"] == "date"
    assert rows.at.get("api/colours?by=no").error["code"] == "E203"


def test_filters(rows, frame):
    def count(*conditions):
        answer = rows.at.post("api/filter", {"conditions": conditions})
        head, body = unpacked(answer.body)
        mask = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little")[:300].astype(bool)
        assert head["count"] == mask.sum()
        scores = rows.page.explored.scores["anomaly_score"].to_numpy()
        ordered = [row["anomaly_score"] for row in head["highest"]]
        assert ordered == sorted(scores[mask], reverse=True)[:100]
        return mask

    assert count().all()
    size, colour, visits = (key(rows.page, name) for name in ("size", "colour", "visits"))
    assert np.array_equal(
        count({"key": size, "low": 40, "high": 60}), frame["size"].between(40, 60)
    )
    both = count({"key": size, "low": 50}, {"key": colour, "levels": ["blue", "green"]})
    assert np.array_equal(both, (frame["size"] >= 50) & (frame["colour"] != "red"))
    known = frame["visits"].fillna(-1).to_numpy(int)
    assert np.array_equal(count({"key": visits, "low": 0}), known >= 0)
    text = count({"key": key(rows.page, "id"), "contains": "K0001"})
    assert np.array_equal(text, frame["id"].str.contains("k0001"))
    when = pd.Timestamp("2024-06-01").timestamp()
    late = count({"key": key(rows.page, "when"), "low": when})
    assert np.array_equal(late, frame["when"] >= "2024-06-01")
    assert np.array_equal(count({"key": key(rows.page, "new"), "levels": ["true"]}), frame["new"])
    flagged = count({"key": "verdict", "levels": ["above the threshold"]})
    assert flagged[7]
    for wrong in ("x", {"key": "no"}, {"key": size, "low": "x"}, {"key": colour, "levels": "red"}):
        assert rows.at.post("api/filter", {"conditions": [wrong]}).status == 422
    assert rows.at.post("api/filter", {}).error["code"] == "E263"


def test_latents_draw_rows(rows):
    about = rows.at.get("api/about").facts["latents"]
    assert about["sliders"]
    assert any(each["moves"] for each in about["sliders"])
    none = [0.0] * len(about["sliders"])
    middle = rows.at.post("api/decode", {"offsets": none, "at": None}).facts["values"]
    expected = rows.model.decode_latents(
        np.asarray(rows.page.explored.about["latents"]["centre"])[None]
    )
    assert [each["name"] for each in middle] == expected.column_names
    moved = [about["sliders"][0]["high"], *none[1:]]
    assert rows.at.post("api/decode", {"offsets": moved, "at": None}).facts["values"] != middle
    # The sliders of a row draw what its latents draw, also where latents have no slider.
    told = rows.at.get("api/row?at=7").facts["sliders"]
    own = rows.at.post("api/decode", {"offsets": told, "at": 7}).facts["values"]
    drawn = rows.model.decode_latents(np.array(rows.page.explored.z[7:8])).to_pylist()[0]
    for each in own:
        if isinstance(drawn[each["name"]], float):
            assert float(each["value"]) == pytest.approx(drawn[each["name"]], rel=1e-4, abs=1e-4)
    assert rows.at.post("api/decode", {"offsets": none[1:], "at": None}).status == 422
    assert rows.at.post("api/decode", {"offsets": ["a"], "at": None}).error["code"] == "E263"


def test_a_selection_is_compared_and_written(rows, place, frame):
    mask = (frame["colour"] == "blue").to_numpy()
    told = rows.at.ask("POST", "api/selection", bits(mask)).facts
    assert told["count"] == mask.sum()
    assert told["differences"][0]["name"] == "colour"
    assert told["differences"][0]["selected"] == "blue: 100%"
    for name in ("some.csv", "some.parquet", "some.jsonl"):
        answer = rows.at.ask("POST", f"api/save?name={name}", bits(mask))
        assert answer.facts == {"path": str(place / name), "rows": int(mask.sum())}
        load = rows.at.ask("POST", f"api/download?name={name}", bits(mask))
        assert load.status == 200
        assert len(load.body) > 500
    written = pq.read_table(place / "some.parquet").to_pandas()
    assert written["row"].tolist() == np.flatnonzero(mask).tolist()
    assert written["size"].tolist() == frame["size"][mask].tolist()
    lines = (place / "some.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["colour"] == "blue"
    before = (place / "some.csv").read_bytes()
    assert rows.at.ask("POST", "api/save?name=some.csv", bits(mask)).error["code"] == "E354"
    assert (place / "some.csv").read_bytes() == before
    for name in ("../a.csv", "a.txt", "", ".csv", "a/b.csv", "/tmp/a.csv"):
        answer = rows.at.ask("POST", f"api/save?name={name}", bits(mask))
        assert answer.error["code"] == "E354"
    assert rows.at.ask("POST", "api/save?name=a.csv", bits(mask & False)).error["code"] == "E354"
    assert rows.at.ask("POST", "api/selection", b"1").error["code"] == "E263"
    assert sorted(path.name for path in place.glob("*.*")) == [
        "some.csv",
        "some.jsonl",
        "some.parquet",
    ]


def test_cells(cells):
    about = cells.at.get("api/about").facts
    assert (about["holds"], about["changes"]) == ("cells", False)
    assert any(each["name"] == "total counts" for each in about["columns"])
    assert cells.at.get("api/row?at=0").facts["values"]
    assert cells.at.post("api/what-if", {"at": 0, "changes": {}}).error["code"] == "E246"
    offsets = [each["high"] for each in about["latents"]["sliders"]]
    genes = cells.at.post("api/decode", {"offsets": offsets, "at": None}).facts["values"]
    assert {"name", "value", "middle"} <= set(genes[0])


def test_pictures(photos):
    about = photos.at.get("api/about").facts
    assert (about["holds"], about["changes"]) == ("pictures", False)
    for path in ("api/picture?at=3", "api/heat?at=3"):
        answer = photos.at.get(path)
        assert answer.headers["content-type"] == "image/png"
        assert answer.body.startswith(b"\x89PNG")
    offsets = [0.0] * len(about["latents"]["sliders"])
    assert photos.at.post("api/decode", {"offsets": offsets, "at": 3}).body.startswith(b"\x89PNG")
    assert photos.at.get("api/row?at=3").facts["row"] == 3


def test_a_sample_of_the_rows_keeps_their_numbers(made, place, frame):
    path = made / "tx.vae"
    order = Order(rows=50, map="pca", folder=str(place), cache=str(place / "cache"))
    with live(lowerbound.load(path), path, str(made / "new.parquet"), order) as (address, page):
        scores = page.model.score(frame)["anomaly_score"].to_numpy()
        numbers = page.explored.scores["row"].to_numpy()
        assert len(numbers) == 50
        assert np.array_equal(page.explored.scores["anomaly_score"].to_numpy(), scores[numbers])
        absent = next(i for i in range(300) if i not in numbers)
        assert address.get(f"api/row?row={absent}").error["code"] == "E353"
        assert address.get(f"api/row?row={numbers[4]}").facts["at"] == 4


# Who may ask.


def test_only_the_page_itself_is_answered(rows):
    def refused(method="GET", path="api/about", body=None, **headers):
        answer = rows.at.ask(method, path, body, **headers)
        assert answer.status in (403, 404)
        return answer.error["code"]

    assert refused(Host="example.org") == "E351"
    assert refused(Host=f"example.org:{rows.at.port}") == "E351"
    assert refused(Origin="http://example.org") == "E351"
    assert refused(Origin="null") == "E351"
    assert refused(Sec_Fetch_Site="cross-site") == "E351"
    body = bits(np.ones(300))
    assert refused("POST", "api/save?name=x.csv", body, Origin="http://example.org") == "E351"
    assert refused("POST", "api/save?name=x.csv", body, Origin=None) == "E351"
    for path in ("/", "/api/about", "/wrong/api/about", "/wrong/", rows.at.path[:-1]):
        assert refused(path=path) == "E265"
    assert refused(path="api/no") == "E265"
    assert refused("POST", "api/about") == "E265"
    assert rows.at.get("api/about", Host=f"localhost:{rows.at.port}").status == 200


def test_every_answer_keeps_browsers_strict(rows):
    for path in ("", "page.js", "page.css", "scatter.js", "colours.css", "api/about", "no"):
        answer = rows.at.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "'unsafe-inline'" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in answer.headers
    page = rows.at.get("").body.decode()
    assert "http" not in page
    assert "<script>" not in page


def test_an_error_inside_is_no_traceback(rows, monkeypatch):
    monkeypatch.setattr(rows.page.model, "score_table", lambda *_, **__: 1 / 0)
    answer = rows.at.post("api/what-if", {"at": 3, "changes": {}})
    assert answer.error["code"] == "E269"
    assert "Traceback" not in answer.body.decode()
    assert "ZeroDivisionError" in rows.at.told[-1]


def test_other_addresses_are_refused(made):
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(ResourceError, match="this machine only") as caught:
            process.check_host(host)
        assert caught.value.code == "E350"
    process.check_host("127.0.0.1")
    process.check_host("localhost")


def test_the_command_refuses_before_any_work(made, tmp_path, capsys):
    def code(*words):
        given = ["explore", str(made / "tx.vae"), str(made / "new.parquet"), *map(str, words)]
        assert main([*given, "--json"]) != 0
        return json.loads(capsys.readouterr().err)["error"]["code"]

    assert code("--host", "0.0.0.0") == "E350"
    assert code("--port", 70000) == "E240"
    assert code("--map", "tsne") == "E241"
    assert code("-n", 0) == "E240"
    assert code("--out-dir", tmp_path / "no") == "E302"
    (tmp_path / "file").write_text("")
    assert code("--cache", tmp_path / "file", "--map", "pca") == "E352"


def test_models_that_restore_pictures_are_refused():
    with pytest.raises(UsageError, match="scores no rows") as caught:
        check(SimpleNamespace(command="denoise"))
    assert caught.value.code == "E270"


# The map.


def test_neighbours_are_the_nearest_ones():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(501, 7)).astype(np.float32)
    x = rng.normal(size=(90, 7)).astype(np.float32)
    places, distances = plane.nearest(x, base, 5)
    exact = np.linalg.norm(x[:, None].astype(float) - base[None], axis=2)
    assert np.allclose(np.sort(exact, 1)[:, :5], distances, atol=1e-4)
    assert np.allclose(np.take_along_axis(exact, places, 1), distances, atol=1e-4)
    few, _ = plane.nearest(x, base[:3], 3)
    assert set(few.ravel()) == {0, 1, 2}


class Fake:
    """A UMAP that puts rows where it is told to begin."""

    given = None

    def __init__(self, **options):
        Fake.given = options

    def fit_transform(self, x):
        return self.given["init"][: len(x)]


def test_a_map_is_fitted_on_some_rows_and_holds_all(monkeypatch):
    rng = np.random.default_rng(0)
    centres = 8 * rng.normal(size=(4, 6))
    kinds = rng.integers(4, size=3000)
    z = (centres[kinds] + rng.normal(size=(3000, 6))).astype(np.float32)
    monkeypatch.setattr(plane, "FITTED", 400)
    monkeypatch.setattr(plane, "library", lambda *_: SimpleNamespace(UMAP=Fake))
    made = plane.plane(z, "umap", 0)
    assert (made.by, made.fitted) == ("umap", 400)
    indices, distances, _ = Fake.given["precomputed_knn"]
    assert indices.shape == distances.shape == (400, 15)
    assert (distances[:, 0] == 0).all()
    assert Fake.given["random_state"] == 0
    # Rows of one kind lie together.
    middle = np.stack([made.points[kinds == kind].mean(0) for kind in range(4)])
    nearest = np.linalg.norm(made.points[:, None] - middle[None], axis=2).argmin(1)
    assert (nearest == kinds).mean() > 0.95
    again = plane.plane(z, "umap", 0)
    assert np.array_equal(again.points, made.points)
    assert plane.plane(z[:40], "umap", 0).by == "pca"
    assert plane.plane(z[:, :1], "pca", 0).points.shape == (3000, 2)


@pytest.mark.nightly
def test_umap_itself_makes_the_same_map_twice():
    pytest.importorskip("umap")
    rng = np.random.default_rng(0)
    kinds = rng.integers(3, size=600)
    z = (9 * np.eye(3)[kinds] + rng.normal(size=(600, 3))).astype(np.float32)
    first, second = (plane.plane(z, "umap", 0).points for _ in range(2))
    assert np.array_equal(first, second)
    middle = np.stack([first[kinds == kind].mean(0) for kind in range(3)])
    nearest = np.linalg.norm(first[:, None] - middle[None], axis=2).argmin(1)
    assert (nearest == kinds).mean() > 0.95


def test_without_umap_the_map_is_by_pca_and_the_page_says_so(made, place, monkeypatch):
    monkeypatch.setattr("lowerbound.web.explore.plane.has_umap", lambda: False)
    order = Order(folder=str(place), cache=str(place / "cache"))
    path = made / "tx.vae"
    with live(lowerbound.load(path), path, str(made / "new.parquet"), order) as (address, _):
        about = address.get("api/about").facts
    assert about["map"]["by"] == "pca"
    assert 0 < about["map"]["explained"] <= 1
    assert "umap-learn is not installed" in about["page_notes"][0]


# The cache.


def test_a_second_start_finds_the_rows_prepared(made, tmp_path, monkeypatch):
    path, model = made / "tx.vae", lowerbound.load(made / "tx.vae")
    order = Order(map="pca", cache=str(tmp_path / "cache"))
    data = tmp_path / "new.parquet"
    data.write_bytes((made / "new.parquet").read_bytes())

    def cached(order=order):
        with live(model, path, str(data), order) as (address, page):
            assert page.explored.total == (order.rows or 300)
            return address.facts["cached"]

    assert not cached()
    score = lowerbound.Model.score_table
    monkeypatch.setattr(lowerbound.Model, "score_table", lambda *_, **__: 1 / 0)
    began = time.monotonic()
    assert cached()
    assert time.monotonic() - began < 5
    monkeypatch.setattr(lowerbound.Model, "score_table", score)
    assert not cached(Order(rows=20, map="pca", cache=order.cache))
    os.utime(data, (1, 1))
    assert not cached()
    (tmp_path / "cache" / ".x.tmp").mkdir()
    os.utime(tmp_path / "cache" / ".x.tmp", (1, 1))
    for seed in range(1, cache.KEPT + 1):
        assert not cached(Order(map="pca", cache=order.cache, seed=seed))
    kept = list((tmp_path / "cache").iterdir())
    assert len(kept) == cache.KEPT
    assert all((each / "about.json").is_file() for each in kept)
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_where_nothing_can_be_kept_a_temporary_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    found = cache.entry(None, "key", lambda folder: (folder / "about.json").write_text("{}"))
    assert not found.kept
    assert "nothing is kept" in found.note
    assert (found.folder / "about.json").is_file()
    with pytest.raises(ZeroDivisionError):
        cache.entry(None, None, lambda folder: 1 / 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache.home() == tmp_path / "home" / "lowerbound" / "explore"
    with pytest.raises(ZeroDivisionError):
        cache.entry(None, "key", lambda folder: 1 / 0)
    assert list(cache.home().iterdir()) == []


def test_a_column_that_changes_its_type_is_refused(tmp_path):
    writer = _Arrow(tmp_path / "a.arrow", pa.table({"a": [1, 2], "b": [[1], [2]]}))
    writer.add(pa.table({"a": [3.0], "b": [[3]]}))
    with pytest.raises(DataError, match="'a' is int64") as caught:
        writer.add(pa.table({"a": ["x"], "b": [[3]]}))
    assert caught.value.code == "E029"
    writer.close()
    with pa.memory_map(str(tmp_path / "a.arrow")) as file:
        assert pa.ipc.open_file(file).read_all().to_pydict() == {"a": [3]}


def test_values_are_spelled_so_that_they_read_back():
    assert [spelled(v) for v in (None, math.nan, 3.0, 0.1, 1e300, True, b"a")] == [
        None, None, "3", "0.1", "1e+300", "True", "61",
    ]  # fmt: skip
    assert spelled(pd.Timestamp("2024-01-02 03:04:05").to_pydatetime()) == "2024-01-02 03:04:05"


# The process.


def test_the_command_serves_until_ctrl_c(made, tmp_path):
    words = (made / "tx.vae", made / "new.parquet", "--map", "pca")
    with Explorer(*words, XDG_CACHE_HOME=str(tmp_path)) as explorer:
        assert explorer.address.get("").status == 200
        assert "300 rows, " in explorer.text
        assert str(tmp_path) in explorer.text
        assert explorer.address.url.startswith("http://127.0.0.1:")
        code, out = explorer.end(signal.SIGINT)
        assert (code, out.strip()) == (0, "the page has ended")
        assert "Traceback" not in explorer.text


# The page in a browser.

DATA = "document.body.dataset"
READY = f"{DATA}.ready && {DATA}.coloured && {DATA}.filtered"
DRAWN = f"{READY} && document.body.dataset.drawn"


@pytest.fixture
def look(watch, browser):
    """Open a page of this computer in the browser."""
    browser.set_offline(False)

    def open_page(of, ready=DRAWN, before=None, **options):
        watched = watch(**options)
        if before:
            watched.page.add_init_script(before)
        watched.open(of.at.url, ready)
        return watched

    yield open_page
    browser.set_offline(True)


def told(watched):
    """The problems of a page but for the remark of Chromium's software renderer."""
    return [text for text in watched.problems if "GPU stall due to ReadPixels" not in text]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark"), (1280, "dark")])
def test_the_page_in_a_browser(rows, look, width, scheme):
    watched = look(rows, width=width, scheme=scheme)
    page = watched.page
    assert watched.outside(rows.at.url, "blob:") == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("#highest tbody tr:first-child button")
    page.wait_for_function(f"document.body.dataset.row === '{highest(rows)}'")
    assert "above the threshold" in page.inner_text("#view-row")
    assert ODD in page.inner_text("#view-row")
    assert watched.violations() == []
    for tab in ("what", "usual", "latents", "selection"):
        page.click(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert watched.violations() == []
    assert told(watched) == []


def test_what_if_and_the_nearest_usual_row_in_a_browser(rows, look, frame):
    watched = look(rows)
    page = watched.page
    page.fill("#row-number", "3")
    page.click("#find button")
    page.wait_for_function("document.body.dataset.row === '3'")
    page.click("#tab-what")
    page.get_by_label(ODD, exact=True).fill("20")
    page.wait_for_function("document.getElementById('what-result').dataset.score")
    expected = rows.model.score(frame.iloc[[3]].assign(**{ODD: 20.0}))
    data = page.evaluate("({...document.getElementById('what-result').dataset})")
    assert float(data["score"]) == expected["anomaly_score"].iloc[0]
    assert float(data["p"]) == expected["p_value"].iloc[0]
    assert "above the threshold" in page.inner_text("#what-result")
    page.get_by_text("Nearest usual row of this").click()
    page.wait_for_selector("#view-usual table")
    page.get_by_text("Take over into What if").click()
    before = data["score"]
    page.wait_for_function(
        f"document.getElementById('what-result').dataset.score"
        f" && document.getElementById('what-result').dataset.score !== '{before}'"
    )
    score = float(page.evaluate("document.getElementById('what-result').dataset.score"))
    assert score <= rows.model.alarm.threshold
    page.click("#reset")
    page.wait_for_function(
        "document.getElementById('what-result').dataset.score =="
        f" {rows.page.explored.scores['anomaly_score'][3].as_py()!r}"
    )
    assert told(watched) == []


def test_colours_filters_latents_and_a_selection_in_a_browser(rows, look, place, frame):
    watched = look(rows)
    page = watched.page
    page.select_option("#colour", label="colour")
    page.wait_for_function("document.getElementById('legend').innerText.includes('green')")
    page.check("#only-flagged")
    flagged = int(rows.model.score(frame)["is_anomaly"].sum())
    page.wait_for_function(f"document.body.dataset.filtered === '{flagged}'")
    page.uncheck("#only-flagged")
    page.select_option("#add-filter", label="colour")
    page.get_by_label("blue").check()
    blue = int((frame["colour"] == "blue").sum())
    page.wait_for_function(f"document.body.dataset.filtered === '{blue}'")
    assert f"{blue} rows of 300" in page.inner_text("#count")
    page.click("#tab-latents")
    page.wait_for_selector("#drawn table")
    before = page.inner_text("#drawn")
    page.locator("#slider-0").focus()
    for _ in range(60):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#drawn .changed')")
    assert page.inner_text("#drawn") != before
    page.click("#tab-selection")
    page.click("#select-filtered")
    page.wait_for_selector("#differences table")
    assert f"{blue} rows" in page.inner_text("#selected")
    page.fill("#file-name", "blue.csv")
    page.click("#write")
    page.wait_for_function("document.getElementById('written').innerText.includes('blue.csv')")
    written = pd.read_csv(place / "blue.csv")
    assert (written["colour"] == "blue").all()
    assert len(written) == blue
    page.click("#write")
    page.wait_for_selector("#trouble:not([hidden])")
    assert "exists already" in page.inner_text("#trouble")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "blue.csv"
    problems = [text for text in told(watched) if "status of 422" not in text]
    assert problems == []


def test_rows_are_chosen_on_the_map(rows, look):
    watched = look(rows)
    page = watched.page
    spots = page.evaluate(
        "(() => { const m = explorer.map, box = document.getElementById('points')"
        ".getBoundingClientRect(); const n = m.x.length; let best = 0;"
        " for (let i = 0; i < n; i++) if (m.x[i] + m.y[i] > m.x[best] + m.y[best]) best = i;"
        " const s = m.scatter.getScreenPosition(best); return [s[0], s[1], best]; })()"
    )
    page.locator("#points").hover(position={"x": spots[0], "y": spots[1]})
    page.wait_for_function("document.getElementById('tip').innerText.includes('score')")
    page.locator("#points").click(position={"x": spots[0], "y": spots[1]})
    page.wait_for_function(f"document.body.dataset.row === '{spots[2]}'")
    page.click("#lasso")
    box = page.locator("#points").bounding_box()
    left, top, right, bottom = box["x"] + 4, box["y"] + 4, box["x"] + box["width"] - 4, 0
    bottom = box["y"] + box["height"] - 4
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom), (left, top + 9)):
        page.mouse.move(x, y, steps=8)
        page.wait_for_timeout(20)
    page.mouse.up()
    page.wait_for_selector("#differences :first-child")
    count = int(page.inner_text("#selected").split(" ")[0])
    assert count > 250
    assert told(watched) == []


def test_without_webgl_everything_but_the_map_works(rows, look):
    none = (
        "const known = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
        " return kind.startsWith('webgl') ? null : known.call(this, kind, ...rest); };"
    )
    watched = look(rows, ready=READY, before=none)
    page = watched.page
    assert "no WebGL" in page.inner_text("#no-map")
    page.click("#highest tbody tr:first-child button")
    page.wait_for_function(f"document.body.dataset.row === '{highest(rows)}'")
    page.check("#only-flagged")
    page.wait_for_function("Number(document.body.dataset.filtered) < 300")


@pytest.mark.parametrize("kind", ["cells", "photos"])
def test_cells_and_pictures_in_a_browser(kind, look, request):
    of = request.getfixturevalue(kind)
    watched = look(of)
    page = watched.page
    page.click("#highest tbody tr:first-child td:last-child")
    page.wait_for_function("document.body.dataset.row")
    page.click("#tab-latents")
    page.wait_for_function("document.body.dataset.decoded")
    assert page.is_hidden("#tab-what")
    page.click("#tab-row")
    if kind == "photos":
        page.wait_for_function(
            "[...document.querySelectorAll('#view-row img')]"
            ".filter(i => i.naturalWidth).length == 2"
        )
    assert watched.violations() == []
    assert told(watched) == []
