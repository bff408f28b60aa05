"""What the documentation shows is run: every Python block, every command, every doctest."""

import ast
import doctest
import importlib
import re
import shlex
import tomllib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torch.distributed.run import get_args_parser as torchrun

from explorers import Explorer
from lowerbound.cli.main import main
from lowerbound.cli.verbs import LOWERBOUND, VERBS
from lowerbound.cli.work import ray
from lowerbound.errors import CATALOGUE
from lowerbound.recipes import RECIPES
from lowerbound.training import split
from lowerbound.training.plan import PRESETS
from picture_files import packed, shades
from reproductions.command import PROGRAM
from servers import Server
from website import pages, reference

ROOT = Path(__file__).parent.parent
COURSE = sorted((ROOT / "docs" / "learn").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *COURSE]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELLS = {"", "sh", "bash", "shell", "console"}


def blocks(page, languages):
    return [
        text for language, text in BLOCK.findall(page.read_text("utf-8")) if language in languages
    ]


def commands(page):
    """Return the words of every ``lowerbound ...`` line."""
    lines = "".join(blocks(page, SHELLS)).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [each[1:] for each in words if each[:1] == ["lowerbound"]]


def notebook_data(file, name):
    """Return a function of the first cell of the notebooks, without running that cell."""
    tree = ast.parse((ROOT / "website" / "notebook_data" / file).read_text("utf-8"))
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef)
    tree.body = [node for node in tree.body if isinstance(node, kept)]
    names = {}
    exec(compile(tree, file, "exec"), names)
    return names[name]


mixed, cells = notebook_data("tables.py", "purchases"), notebook_data("cells.py", "cells")


def pictures(folder, count, seed, kind="JPEG", shrink=1):
    """Pictures of different sizes, as a camera or a phone leaves them."""
    folder.mkdir()
    for i in range(count):
        height, width = (72 + 8 * (i % 3)) // shrink, (80 + 12 * (i % 2)) // shrink
        name = f"{i:02d}.{'jpg' if kind == 'JPEG' else 'png'}"
        (folder / name).write_bytes(packed(shades(height, width, seed + i), kind))


def masks(folder, pictures):
    """White where the bright square of `shades` is."""
    folder.mkdir()
    for path in sorted(pictures.iterdir()):
        bright = np.array(Image.open(path))[..., 2] > 120
        (folder / f"{path.stem}.png").write_bytes(packed(np.uint8(255 * bright)))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that the reader sits in."""
    mixed(240, seed=0).to_csv(tmp_path / "tx.csv", index=False)
    mixed(30, seed=1).to_csv(tmp_path / "new.csv", index=False)
    mixed(240, seed=0).to_parquet(tmp_path / "tx.parquet")
    (tmp_path / "parts").mkdir()
    for i in range(2):
        mixed(30, seed=i).to_parquet(tmp_path / "parts" / f"{i}.parquet")
    for seed, name in enumerate(("photos", "new", "noisy", "torn")):
        pictures(tmp_path / name, 16 if name == "photos" else 3, 100 * seed)
    pictures(tmp_path / "small", 3, 700, shrink=4)
    pictures(tmp_path / "slides", 8, 500)
    masks(tmp_path / "masks", tmp_path / "slides")
    masks(tmp_path / "holes", tmp_path / "torn")
    np.save(tmp_path / "digits.npy", load_digits().images)
    cells(240, seed=0).write_h5ad(tmp_path / "pbmc.h5ad")
    cells(30, seed=1).write_h5ad(tmp_path / "new.h5ad")
    (tmp_path / "token").write_text("a-secret-of-the-tests")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def named(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p, {"python"}) and p not in COURSE], ids=named
)
def test_python_blocks_run_one_after_the_other(page, folder, monkeypatch):
    for name, preset in PRESETS.items():  # a few passes are enough for 240 rows
        short = preset._replace(budget=replace(preset.budget, epochs=3, steps=0))
        monkeypatch.setitem(PRESETS, name, short)
    names = {"frame": mixed(240, seed=0), "new": mixed(30, seed=1)}
    given = len(names)
    for number, text in enumerate(blocks(page, {"python"}), 1):
        exec(compile(text, f"{page.name}, Python block {number}", "exec"), names)
    assert len(names) > given  # the blocks have run, and defined something


@pytest.mark.parametrize("page", [p for p in COURSE if blocks(p, {"python"})], ids=named)
def test_pages_of_the_course_run_and_do_what_their_text_claims(page, folder):
    shown = pages.run(page)
    assert len(shown) == len(blocks(page, {"python"}))
    assert any(each.printed or each.figures for each in shown)
    claims = re.findall("<!-- check: ", page.read_text("utf-8"))
    assert len(claims) == len(pages.PART.findall(page.read_text("utf-8"))) - len(shown)
    assert claims
    widest = max(len(line) for text in blocks(page, {"python"}) for line in text.splitlines())
    assert widest <= 88  # as wide as a page shows at 1280 pixels


def test_a_claim_of_a_page_that_does_not_hold_is_an_error(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\na = 1\nprint(a)\n```\n\n<!-- check: a == 1 -->\n", "utf-8")
    assert pages.run(page)[0].printed == "1\n"
    page.write_text("```python\na = 1\n```\n\n<!-- check: a == 2 -->\n", "utf-8")
    with pytest.raises(pages.PageError, match="a == 2"):
        pages.run(page)
    page.write_text("```python\na = nothing\n```\n", "utf-8")
    with pytest.raises(pages.PageError, match="NameError"):
        pages.run(page)


def test_a_page_of_the_course_is_shown_with_its_output_and_its_figures(tmp_path):
    page = tmp_path / "page.md"
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.title('Line')\nprint(3)\n"
    page.write_text(f"# A page\n\n```python\n{code}```\n\nText.\n", "utf-8")
    text = pages.rendered(page, tmp_path / "figures", "figures")
    assert '```text title="Output"\n3\n```' in text
    assert "![Line](figures/page-1.svg#only-light)" in text
    light, dark = (tmp_path / "figures" / f"page-1{kind}.svg" for kind in ("", "-dark"))
    assert pages.INK in light.read_text("utf-8")
    assert pages.INK not in dark.read_text("utf-8")
    assert text.endswith("\n\nText.\n")


def test_every_page_is_in_the_navigation_of_the_site():
    site = tomllib.loads((ROOT / "website" / "zensical.toml").read_text("utf-8"))["project"]

    def leaves(part):
        if isinstance(part, str):
            return [part]
        inner = part.values() if isinstance(part, dict) else part
        return [leaf for each in inner for leaf in leaves(each)]

    shown = leaves(site["nav"])
    made = [path for path, _ in reference.generated((ROOT / "README.md").read_text("utf-8"))]
    own = [str(page.relative_to(ROOT / "docs")) for page in PAGES[1:]]
    assert sorted(shown) == sorted([*own, *made])


def quick(words):
    """What makes a shown command a matter of seconds."""
    if words[0] == "tune":
        return ["--max-epochs", "2", "--trials", "2"]
    if words[0] != "fit":
        return []
    restoring = {name for name, recipe in RECIPES.items() if recipe.restoration is not None}
    if "--from" in words:  # with the network of another model
        return ["--max-epochs", "2", "--time-limit", "0.1"]
    narrow = ["--set", "width=8"] if restoring & set(words) else []
    if "photos/" in words and "--recipe" not in words:
        narrow = ["--set", "channels=4"]
    soon = [] if "--time-limit" in words else ["--time-limit", "0.1"]
    return ["--max-epochs", "2", *soon, *narrow]


def by_time(page):
    """Run pages of Ray nightly: its processes take a minute to start, and have their own tests."""
    on_ray = any("--ray" in words for words in commands(page))
    return pytest.param(page, marks=pytest.mark.nightly) if on_ray else page


@pytest.mark.parametrize("page", [by_time(p) for p in PAGES if commands(p)], ids=named)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # of what Ray does itself
def test_commands_run_one_after_the_other(page, folder, capsys, monkeypatch):
    monkeypatch.setattr(split, "HELD_CROPS", 8)
    shown = commands(page)
    with ray.cluster() if any("--ray" in words for words in shown) else nullcontext():
        for words in shown:
            if words[0] == "serve":  # which ends by a signal
                with Server(*words[1:]) as server:
                    assert server.get("/readyz").status == 200
                continue
            if words[0] == "explore":  # too
                with Explorer(*words[1:], "--map", "pca", "--cache", "prepared") as explorer:
                    assert explorer.address.get("").status == 200
                continue
            code = main([*words, *quick(words)])
            assert code == 0, f"lowerbound {shlex.join(words)}\n{capsys.readouterr().err}"
            if "--out" in words:
                assert (folder / words[words.index("--out") + 1]).exists(), shlex.join(words)


@pytest.mark.parametrize(
    "name",
    [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for path in SOURCES
        if re.search(r"^\s*>>> ", path.read_text("utf-8"), re.MULTILINE)
    ],
)
def test_doctests(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


def test_the_readme_is_read_in_two_minutes():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 130


def test_the_pages_show_every_command():
    text = "".join(page.read_text("utf-8") for page in PAGES)
    shown = set(re.findall(r"lowerbound ([a-z]+)", text)) | set(re.findall(r"make ([a-z]+)", text))
    renamed = {"explain"}  # the pages call it `error` already
    assert set(VERBS) - renamed <= shown


def test_targets_of_make_that_pages_speak_of_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        named = re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)
        assert set(named) <= set(targets), page.name


def test_the_tree_of_rooms_is_that_of_the_package():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    told = set(re.findall(r"^  ([a-z]+)/", text, re.MULTILINE))
    rooms = {path.parent.name for path in (ROOT / "src" / "lowerbound").glob("*/__init__.py")}
    assert told == rooms
    for path in re.findall(r"^\d\. `([^`]+)`", text, re.MULTILINE):
        assert (ROOT / "src" / "lowerbound" / path).is_file(), path


def test_flags_that_pages_speak_of_exist(capsys):
    capsys.readouterr()
    for program in (LOWERBOUND, PROGRAM):
        for verb in program.verbs:
            main([verb, "--help"], program)
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) | {"--help"}
    known |= set(torchrun()._option_string_actions)
    for page in PAGES:
        prose = re.sub(r"<!--.*?-->", "", page.read_text("utf-8"), flags=re.DOTALL)
        assert set(re.findall(r"(?<![-\w])--[a-z][a-z-]+", prose)) <= known, page.name


def test_codes_that_pages_speak_of_exist():
    for page in PAGES:
        assert set(re.findall(r"\bE\d{3}\b", page.read_text("utf-8"))) <= set(CATALOGUE), page.name


def anchors(page):
    """Return the anchors that GitHub gives the headings of a page."""
    prose = BLOCK.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text("utf-8")):
            if target.startswith("http"):
                continue
            there = page.parent / target if target else page
            assert there.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(there), f"{page.name}: {target}#{anchor}"
