"""The report: the command, its numbers, and the page in a browser."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.csv as pv
import pytest
from PIL import Image
from scipy import sparse

import lowerbound
import zoo
from lowerbound.cli.main import main
from lowerbound.errors import UsageError
from lowerbound.tasks.plots import plane
from lowerbound.training import split
from lowerbound.web.report import charts, page
from lowerbound.web.report.measure import measure
from picture_files import shades

ODD = "amount <b>&\"'</script>"  # a name that must not become part of the page
FAST = ["--preset", "fast", "--max-epochs", "3", "-q"]


def frame(rows, seed=0):
    rng = np.random.default_rng(seed)
    shop = rng.choice(["north", "south", "west"], rows, p=[0.5, 0.3, 0.2])
    amount = np.exp(rng.normal(3 + (shop == "south"), 0.5, rows)).round(2)
    return {
        ODD: amount,
        "fee": (0.02 * amount + rng.normal(0, 0.05, rows)).round(3),
        "shop": shop,
        "visits": rng.poisson(3, rows).astype(float),
    }


def models(folder):
    """Models of a table, of cells and of pictures, with data of each."""
    import pyarrow as pa

    pv.write_csv(pa.table(frame(600)), folder / "tx.csv")
    new = frame(300, seed=1)
    new["fee"][7] = 40.0
    pv.write_csv(pa.table(new), folder / "new.csv")
    fit = ["fit", str(folder / "tx.csv"), "--alarm-rate", "2%", *FAST]
    assert main([*fit, "--out", str(folder / "tx.vae")]) == 0
    rng = np.random.default_rng(0)
    x = rng.random((120, 8, 8)) < np.linspace(0.1, 0.9, 8)
    np.save(folder / "x.npy", x)
    small = ["--recipe", "conv", "--set", "channels=[4]", "--latent", "2"]
    assert main(["fit", str(folder / "x.npy"), *small, *FAST, "--out", str(folder / "x.vae")]) == 0
    counts = rng.poisson(np.exp(rng.normal(size=(150, 2)) @ rng.normal(size=(2, 12))))
    sparse.save_npz(folder / "c.npz", sparse.csr_matrix(counts))
    words = ["fit", str(folder / "c.npz"), "--recipe", "counts", *FAST]
    assert main([*words, "--out", str(folder / "c.vae")]) == 0


@pytest.fixture(scope="module")
def made():
    return zoo.folder(models)


@pytest.fixture(scope="module")
def reports(made, tmp_path_factory):
    """Reports by name, as the command writes them, and the facts that it prints."""
    folder = tmp_path_factory.mktemp("reports")
    pages = {}
    for name, words in {
        "table": ["tx.vae", "new.csv", "--learned", "tx.csv"],
        "cells": ["c.vae", "c.npz"],
        "pictures": ["x.vae", "x.npy"],
        "model": ["tx.vae"],
    }.items():
        paths = [str(made / word) if (made / word).exists() else word for word in words]
        pages[name] = folder / f"{name}.html"
        assert main(["report", *paths, "--out", str(pages[name]), "-q"]) == 0
    return pages


def text_of(path):
    return re.sub(r"<[^>]+>", " ", path.read_text("utf-8").split("<script")[0])


HEADINGS = {
    "table": 8,
    "cells": 7,
    "pictures": 7,
    "model": 5,
}


@pytest.mark.parametrize("name", HEADINGS)
def test_a_report_is_one_small_file_that_names_nothing_elsewhere(reports, name):
    html = reports[name].read_text("utf-8")
    assert len(html.encode()) < 5_000_000
    assert html.count("<h2 id") == HEADINGS[name]
    head = html.split('<script id="specs"')[0]
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", head)
    assert "Not shown" not in head
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html


def test_a_report_says_in_words_what_it_found(reports):
    told = text_of(reports["table"])
    assert "All 300 rows of" in told
    assert "are above the threshold" in told
    assert "p-values come from" in told
    assert re.search(
        r"columns of numbers and 1 of 1 columns? of categories|columns of numbers", told
    )
    assert "fee" in told
    assert "sha256" in told
    assert "lowerbound report" in told
    assert "no sign of copies" in re.sub(r"\s+", " ", told) or "may be copies" in told
    assert "No data were given" in text_of(reports["model"])


def test_names_of_columns_are_text_in_the_page(reports):
    html = reports["table"].read_text("utf-8")
    assert "amount <b>" not in html
    specs = re.search(r'<script id="specs"[^>]*>(.*?)</script>', html, re.DOTALL)[1]
    assert "<" not in specs
    assert ODD in json.dumps(json.loads(specs), ensure_ascii=False).replace('\\"', '"')


def test_the_changed_row_is_the_most_unusual_one_with_its_reason(made):
    model = lowerbound.load(made / "tx.vae")
    found = measure(model, made / "new.csv")
    first = found.highest[0]
    assert first["row"] == 7
    assert first["top1_column"] == "fee"
    assert first["top1_value"] == "40"
    scores = model.score(pv.read_csv(made / "new.csv"))["anomaly_score"].to_numpy()
    assert np.array_equal(found.scores, scores)
    assert found.drift["rows"] == 300


def test_a_sample_of_the_rows_keeps_their_places(made):
    model = lowerbound.load(made / "tx.vae")
    found = measure(model, made / "new.csv", rows=50)
    whole = model.score(pv.read_csv(made / "new.csv"))["anomaly_score"].to_numpy()
    assert found.scored.num_rows == 50
    assert np.array_equal(found.scores, whole[found.places])
    assert "50 of the 300 rows" in re.sub(r"\s+", " ", page.words.looked_at(found))


def test_pictures_are_shown_with_heat(made):
    model = lowerbound.load(made / "x.vae")
    found = measure(model, made / "x.npy", rows=30)
    shown, heat = found.heat
    assert shown.shape == (10, 8, 8, 1)
    assert heat.shape == (10, 8, 8)
    assert page.render(found, {}).count("its unusual pixels in red") == 10


def test_the_plane_holds_most_of_the_variance():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 5)) * [3, 2, 0.1, 0.1, 0.1]
    points, explained = plane(z)
    assert points.shape == (500, 2)
    assert explained == pytest.approx(13 / 13.03, abs=0.01)
    assert np.allclose(np.abs(np.corrcoef(points[:, 0], z[:, 0])[0, 1]), 1, atol=1e-3)
    assert plane(z[:, :1])[0].shape == (500, 2)


def test_a_report_is_refused_before_any_work(made, tmp_path, capsys):
    def code(*words):
        assert main(["report", *map(str, words), "--json"]) != 0
        return json.loads(capsys.readouterr().err)["error"]["code"]

    assert code(made / "tx.vae") == "E232"
    assert code(made / "tx.vae", "--out", tmp_path / "a.pdf") == "E222"
    (tmp_path / "a.html").write_text("mine")
    assert code(made / "tx.vae", "--out", tmp_path / "a.html") == "E220"
    assert (tmp_path / "a.html").read_text() == "mine"
    model = made / "tx.vae"
    assert code(model, made / "new.csv", "--out", tmp_path / "b.html", "-n", 0) == "E240"
    assert not (tmp_path / "b.html").exists()


def test_models_that_restore_pictures_are_shown_at_work(made, tmp_path, capsys):
    for i in range(5):
        page_file = tmp_path / f"photos/{i}.png"
        page_file.parent.mkdir(exist_ok=True)
        Image.fromarray(shades(50 + i, 60, i)).save(page_file)
    (tmp_path / "photos/5.png").write_bytes(b"no picture")
    skip = ["--on-bad-file", "skip"]
    fit = ["fit", str(tmp_path / "photos"), "--time-limit", "0.5s", "--set", "width=4", *skip]
    for recipe in ("denoise", "inpaint", "upscale", "autoencoder"):
        model = tmp_path / f"{recipe}.vae"
        small = [] if recipe == "autoencoder" else ["--set", "depth=1"]
        words = [*fit, *small, "--recipe", recipe, "-q", "--out", str(model)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(split, "HELD_CROPS", 16)
            assert main(words) == 0
        capsys.readouterr()
        html = tmp_path / f"{recipe}.html"
        words = ["report", str(model), str(tmp_path / "photos"), *skip, "--json"]
        assert main([*words, "--out", str(html)]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["shown"] == 5
        assert [each["file"] for each in facts["unreadable"]] == ["5.png"]
        content = html.read_text("utf-8")
        assert content.count('<div class="three">') == 10
        assert content.count("<h2 id") == 3
        told = text_of(html)
        assert "Before and after" in told
        assert "p-values come from" not in told
        alone = tmp_path / f"{recipe}-alone.html"
        assert main(["report", str(model), "--out", str(alone), "-q"]) == 0
        assert alone.read_text("utf-8").count("<h2 id") == 2
    with pytest.raises(UsageError, match="restores pictures") as caught:
        measure(lowerbound.load(tmp_path / "denoise.vae"), np.zeros((3, 8, 8), np.uint8))
    assert caught.value.code == "E270"


def test_too_large_a_page_is_refused(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lowerbound.cli.work.report._MOST", 1000)
    words = ["report", str(made / "tx.vae"), "--out", str(tmp_path / "a.html"), "--json"]
    assert main(words) == 5
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "E340"
    assert not list(tmp_path.iterdir())


DRAWN = "document.body.dataset.drawn === 'yes'"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", HEADINGS)
def test_the_page_in_a_browser(reports, watch, name, scheme):
    watched = watch(scheme=scheme, width=390 if scheme == "dark" else 1280)
    opened = watched.open(reports[name], DRAWN)
    assert watched.problems == []
    assert watched.outside(reports[name].as_uri()) == []
    empty = opened.evaluate(
        "[...document.querySelectorAll('.chart')].filter(e => !e.querySelector('svg, canvas'))"
        ".map(e => e.id)"
    )
    assert empty == []
    assert "cannot be drawn" not in opened.inner_text("main")
    assert (
        opened.evaluate("document.documentElement.scrollWidth")
        <= watched.page.viewport_size["width"]
    )
    assert watched.violations() == []


def test_the_map_is_coloured_by_a_column_and_tells_the_row_under_the_mouse(reports, watch):
    watched = watch()
    opened = watched.open(reports["table"], DRAWN)
    names = opened.locator("#colour option").all_inner_texts()
    assert names[0] == "anomaly score"
    assert {"p-value", "shop", "fee"} <= set(names)
    opened.select_option("#colour", label="shop")
    opened.wait_for_function("lowerboundMap && lowerboundMap.data('source_0')[0].value.length > 1")
    levels = opened.evaluate(
        "[...new Set(lowerboundMap.data('source_0').map(d => d.value))].sort()"
    )
    assert levels == ["north", "south", "west"]
    spot = opened.evaluate(
        "(() => { const v = lowerboundMap, o = v.origin();"
        " const d = v.data('source_0').reduce((a, b) => a.x < b.x ? a : b);"
        " return [o[0] + v.scale('x')(d.x), o[1] + v.scale('y')(d.y), d.row]; })()"
    )
    # The leftmost point: others are so close together that the mouse cannot tell them apart.
    opened.locator("#chart-map canvas").hover(position={"x": spot[0] + 1, "y": spot[1]})
    opened.wait_for_function(
        f"document.querySelector('#picked strong')?.innerText == 'row {spot[2]}'"
    )
    assert "shop" in opened.inner_text("#picked")
    assert watched.problems == []


@pytest.mark.nightly
def test_the_chart_library_is_what_its_package_makes():
    """`vega.js` is the bundle of Vega, Vega-Lite and Vega-Embed that vl-convert-python makes."""
    convert = pytest.importorskip("vl_convert")
    kept = Path(charts.__file__).with_name("vega.js").read_text("utf-8")
    assert kept == convert.javascript_bundle()
