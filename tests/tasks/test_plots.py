"""Plots of rows as matplotlib axes, models and results in notebooks."""

import html.parser

import numpy as np
import pyarrow as pa
import pytest

import lowerbound
from lowerbound.cli.main import main
from lowerbound.errors import UsageError
from lowerbound.training.notebook_bar import NotebookBar, in_notebook

pytestmark = pytest.mark.filterwarnings("ignore:.*non-interactive.*")


def table(rows, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    shop = rng.choice(["north", "south<b>"], rows)
    amount = rng.normal(3 * (shop == "north"), 0.5, rows)
    return pa.table({"shop": shop, "amount": amount, "fee": amount + rng.normal(shift, 0.1, rows)})


@pytest.fixture(scope="module")
def model():
    return lowerbound.fit(table(800), preset="fast", alarm_rate="5%", time_limit="20s")


@pytest.fixture(autouse=True)
def no_screen(monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


def test_the_scores_are_all_drawn_and_the_threshold_is_where_it_is(model):
    new = table(300, seed=1)
    ax = model.plot.scores(new)
    assert sum(patch.get_height() for patch in ax.patches) == 300
    assert ax.lines[0].get_xdata()[0] == model.alarm.threshold


def test_p_values_of_such_rows_lie_on_the_diagonal_and_those_of_others_do_not(model):
    curve = model.plot.calibration(table(400, seed=2)).lines[1]
    other = model.plot.calibration(table(400, seed=2, shift=3.0)).lines[1]
    distances = [np.abs(line.get_xdata() - line.get_ydata()).max() for line in (curve, other)]
    assert distances[0] < 0.25
    assert distances[1] > 0.8


def test_the_embedding_is_coloured_by_a_column(model):
    ax = model.plot.embedding(table(100, seed=3), color="shop")
    assert sum(len(each.get_offsets()) for each in ax.collections) == 100
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"north", "south<b>"}
    assert model.plot.embedding(table(100), color="fee").figure.axes[1].get_ylabel() == "fee"
    with pytest.raises(UsageError, match="no column") as caught:
        model.plot.embedding(table(100), color="shp")
    assert caught.value.code == "E203"
    assert "shop" in caught.value.fix


def test_columns_real_and_drawn(model):
    axes = model.plot.real_vs_drawn(table(100), columns=["amount", "shop"])
    assert [ax.get_title() for ax in axes] == ["amount", "shop"]
    assert len(axes[1].patches) == 4
    with pytest.raises(UsageError):
        model.plot.real_vs_drawn(table(100), columns=["price"])


def test_axes_of_the_user_are_drawn_on(model):
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert model.plot.latents(table(200), ax=ax) is ax
    assert ax.get_title()


@pytest.mark.parametrize(
    "kind", ["scores", "embedding", "real-vs-drawn", "calibration", "latents"]
)
def test_the_command_writes_every_kind(model, tmp_path, kind):
    import pyarrow.csv as pv

    model.save(tmp_path / "m.vae")
    pv.write_csv(table(60), tmp_path / "new.csv")
    words = ["plot", str(tmp_path / "m.vae"), kind, str(tmp_path / "new.csv"), "-q", "--out"]
    starts = {"a.png": b"\x89PNG", "a.svg": b"<?xml", "a.pdf": b"%PDF"}
    for name, start in starts.items():
        assert main([*words, str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    assert main([*words, str(tmp_path / "a.gif")]) == 2
    assert main([*words, str(tmp_path / "a.png")]) == 2  # it exists
    if kind != "embedding":
        assert main([*words, str(tmp_path / "b.png"), "--color", "shop"]) == 2


class _Balanced(html.parser.HTMLParser):
    """Checks that every element is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(text):
    page = _Balanced()
    page.feed(text)
    assert not page.open
    return " ".join(page.text)


def test_a_model_is_shown_in_text_and_in_a_notebook(model):
    told = repr(model)
    assert "800 rows" in told
    assert "shop, amount, fee" in told
    assert len(told) < 2000
    shown = read(model._repr_html_())
    assert "800 rows" in shown
    assert "amount" in shown
    assert "<script" not in model._repr_html_()


def test_results_are_shown_in_text_and_in_a_notebook(model):
    compared = model.compare(table(200, seed=4))
    assert compared["rows"]["real"] == 200
    assert "c2st" in str(compared)
    assert "200 real ones" in read(compared._repr_html_())
    drift = model.drift(table(200, seed=4, shift=3.0))
    first, second = drift["columns"][:2]
    assert first["p_value"] < 1e-6
    assert {first["column"], second["column"]} == {"fee", "amount"}
    assert first["column"] in read(drift._repr_html_())
    assert "fee" in str(drift)
    assert min(c["p_value"] for c in model.drift(table(300, seed=5))["columns"]) > 1e-4


def test_hidden_values_are_where_a_good_model_expects_them(model):
    found = {each.column: each for each in model.coverage(table(400, seed=6), draws=40)}
    assert set(found) == {"shop", "amount", "fee"}
    assert found["shop"].found > 0.9
    assert all(each.low <= each.found <= each.high for each in found.values())
    wrong = model.coverage(table(400, seed=6, shift=3.0), columns=["fee"], draws=40)
    assert wrong[0].found < 0.2
    assert not wrong[0].as_expected


def test_the_ends_of_a_latent_differ_by_the_column_that_it_codes(model):
    meanings = model.latent_meanings(table(500, seed=7))
    assert {move.column for move in meanings[0].moves} <= {"shop", "amount", "fee"}
    assert max(abs(move.effect) for meaning in meanings for move in meaning.moves) > 0.8


def test_some_rows_keep_their_places(model):
    rows = table(500)
    some = model.some(rows, 40, seed=3)
    assert some.total == 500
    assert some.frame.to_table().table.equals(rows.take(pa.array(some.places)).combine_chunks())


class _Shell:
    """The part of IPython that the bar uses, which keeps what is displayed."""

    def __init__(self):
        self.display, self.pages = self, []

    def __call__(self, page, *, raw, display_id):
        assert raw
        assert display_id
        self.pages.append(page)
        return self

    def update(self, page, *, raw):
        self.pages.append(page)


def test_a_fit_in_a_notebook_has_a_bar():
    assert not in_notebook()
    shell = _Shell()
    shell.display = type("D", (), {"display": shell})()
    bar = NotebookBar(shell)
    from lowerbound.training.fit import learn
    from lowerbound.training.plan import Plan

    plan = Plan(preset="fast", max_epochs=3)
    learn(table(300), plan, report=bar.report, beat=bar.beat)
    bar.close()
    assert len(shell.pages) > 1
    assert "held-out bound" in shell.pages[-1]["text/plain"]
    assert "done in" in read(shell.pages[-1]["text/html"])
