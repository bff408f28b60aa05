"""A folder of JPEGs from inspect to heat maps on the command line."""

import csv
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import commands
import lowerbound
import zoo
from lowerbound.cli.commands.doctor import doctor
from lowerbound.cli.main import main
from lowerbound.files.pictures import image_file
from lowerbound.files.read import read
from picture_files import packed, shades

N = 24
OUT = ("--out", "s.csv")
QUICK = ("--size", "16", "--max-epochs", "1", "--set", "channels=4")


def photos(folder, count=N):
    """JPEGs of several sizes in two folders."""
    for i in range(count):
        path = folder / ("even" if i % 2 == 0 else "odd") / f"{i:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed(shades(36 + i % 5, 48, i), "JPEG"))
    return folder


def models(root):
    """A folder of photos, a model of them, and one of their grey values in an array."""
    photos(root / "photos")
    assert main(["fit", str(root / "photos"), *QUICK, "-q", "--out", str(root / "m.vae")]) == 0
    grey = np.stack([shades(16, 16, i)[..., 0] for i in range(N)])
    np.save(root / "grey.npy", grey)
    quick = ["--recipe", "conv", "--set", "channels=[4]", "--max-epochs", "1", "-q"]
    assert main(["fit", str(root / "grey.npy"), *quick, "--out", str(root / "grey.vae")]) == 0


@pytest.fixture(scope="module")
def made():
    return zoo.folder(models)


@pytest.fixture
def call(made, tmp_path, spoken):
    """Run a command beside the models; return its facts, or its error."""
    for name in ("m.vae", "grey.vae"):
        (tmp_path / name).symlink_to(made / name)
    shutil.copytree(made / "photos", tmp_path / "photos")
    shutil.copy(made / "grey.npy", tmp_path)
    return spoken


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def spoil(folder, count=1):
    for i in range(count):
        (folder / f"broken{i}.jpg").write_bytes(packed(shades(), "JPEG")[:600])


def test_a_recipe_is_chosen_and_said(call, capsys):
    told = call("fit", "photos/", "--size", "16x20", "--max-epochs", "1", "--out", "new.vae")
    assert told["recipe"] == "conv_ladder"
    assert told["columns"] == 16 * 20 * 3
    assert told["plan"]["settings"] == {"groups": [1, 1], "channels": 16}
    assert told["plan"]["time_limit"] is None
    assert any("24 pictures scaled and cut to 16 x 20" in note for note in told["notes"])
    assert main(["fit", "photos/", *QUICK, "--out", "other.vae"]) == 0
    spoken = " ".join(capsys.readouterr().err.split())
    assert "recipe conv_ladder (groups=[1, 1], channels=4), which suits pictures" in spoken
    assert "24 pictures of 16 x 16 x 3" in spoken


_LADDER = ("groups", "channels", "blocks")


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((28, 28), ["groups = [1, 1]", "channels = 16"]),
        ((64, 64, 3), ["groups = [1, 1, 1]", "channels = 16"]),
        ((128, 96), ["groups = [1, 1, 1]", "channels = 16", "blocks = 2"]),
        ((400, 24), ["groups = [1]", "channels = 16", "blocks = 2"]),
        ((9, 5), ["groups = [1]", "channels = 16"]),
    ],
)
def test_arrays_get_a_recipe_of_pictures_too(call, capsys, shape, settings):
    np.save("x.npy", np.zeros((4, *shape), np.uint8) + np.arange(4).reshape(-1, *[1] * len(shape)))
    capsys.readouterr()
    assert main(["fit", "x.npy", "--print-config"]) == 0
    text = capsys.readouterr().out
    assert 'recipe = "conv_ladder"' in text
    assert [line for line in text.splitlines() if line.split(" = ")[0] in _LADDER] == settings
    assert "time_limit = 300.0" in text
    assert main(["fit", "x.npy", "--print-config", "--preset", "fast"]) == 0
    assert "time_limit = " not in capsys.readouterr().out
    (call.folder / "c.toml").write_text(text)
    assert main(["fit", "x.npy", "--print-config", "--config", "c.toml"]) == 0
    assert capsys.readouterr().out == text


def test_the_size_of_pictures_of_one_size_is_kept(call):
    flat = call.folder / "flat"
    flat.mkdir()
    for i in range(4):
        (flat / f"{i}.png").write_bytes(packed(shades(8, 12, i)[..., 0]))
    told = call("fit", "flat", "--max-epochs", "1", "--out", "flat.vae")
    assert told["columns"] == 8 * 12


def test_scores_name_the_files(call):
    told = call("score", "m.vae", "photos/", "--out", "s.csv")
    assert told["rows"] == N
    found = rows("s.csv")
    assert [row["file"] for row in found] == sorted(row["file"] for row in found)
    assert {row["file"].split("/")[0] for row in found} == {"even", "odd"}
    assert all(0 < float(row["p_value"]) <= 1 for row in found)
    call("embed", "m.vae", "photos/", "--out", "e.csv")
    assert [row["file"] for row in rows("e.csv")] == [row["file"] for row in found]
    call("evaluate", "m.vae", "photos/", "--samples", "2")
    call("score", "m.vae", "photos/even/*.jpg", "--out", "even.csv")
    one = "photos/even/00.jpg"
    call("score", "m.vae", one, "--out", "one.csv")
    (alone,) = rows("one.csv")
    by_name = {row["file"]: row["anomaly_score"] for row in found}
    assert alone["anomaly_score"] == by_name["even/00.jpg"] == rows("even.csv")[0]["anomaly_score"]


def test_every_way_of_scoring_names_the_files(call):
    flat = shades(40, 48, 0) // 255 + 127  # of one grey: simpler than the others
    (call.folder / "photos" / "flat.png").write_bytes(packed(flat))
    found = {}
    for by in ("likelihood", "typicality", "levels"):
        told = call("score", "m.vae", "photos/", "--by", by, "--out", f"{by}.csv")
        assert (told["by"], told["rows"]) == (by, N + 1)
        found[by] = {row["file"]: float(row["anomaly_score"]) for row in rows(f"{by}.csv")}
    assert found["likelihood"].keys() == found["typicality"].keys() == found["levels"].keys()
    assert min(found["likelihood"], key=found["likelihood"].get) == "flat.png"
    assert max(found["typicality"], key=found["typicality"].get) == "flat.png"
    assert call("score", "grey.vae", "grey.npy", *OUT, "--by", "levels", code=2)["code"] == "E258"


def test_heat_maps_show_where(call):
    strange = shades(40, 48, 0)
    strange[5:15, 5:15] = np.random.default_rng(0).integers(0, 255, (10, 10, 3))
    (call.folder / "photos" / "strange.png").write_bytes(packed(strange))
    told = call("score", "m.vae", "photos/", "--out", "s.csv", "--heatmaps", "heat/")
    assert told["heatmaps"]["pictures"] == N + 1
    assert os.path.isfile("heat/odd/01.png")
    drawn = image_file.decode(call.folder / "heat" / "strange.png")
    assert drawn.shape == (192, 2 * 192 + 4, 3)
    before = {path: path.read_bytes() for path in (call.folder / "heat").rglob("*.png")}
    words = ["score", "m.vae", "photos/", "--out", "s.csv", "--heatmaps", "heat/"]
    assert call(*words, code=2)["code"] == "E220"
    call(*words, "--overwrite")  # and the same pictures give the same maps
    assert {path: path.read_bytes() for path in (call.folder / "heat").rglob("*.png")} == before
    call("score", "grey.vae", "grey.npy", "--out", "n.csv", "--heatmaps", "numbers")
    assert sorted(os.listdir("numbers"))[0] == "00.png"
    assert not list(call.folder.glob(".*"))


def test_pictures_come_out_as_a_grid_or_a_folder(call):
    call("sample", "m.vae", "-n", "9", "--out", "grid.png")
    side = 3 * (64 + 2) + 2
    assert image_file.decode(call.folder / "grid.png").shape == (side, side, 3)
    call("sample", "m.vae", "-n", "12", "--out", "drawn")
    assert sorted(os.listdir("drawn")) == [f"{i:02d}.png" for i in range(12)]
    assert image_file.decode(call.folder / "drawn" / "00.png").shape == (16, 16, 3)
    (call.folder / "photos" / "even" / "00.png").write_bytes(packed(shades()))
    call("reconstruct", "m.vae", "photos/", "--out", "again/")
    assert (call.folder / "again" / "even" / "00.jpg.png").is_file()
    assert (call.folder / "again" / "even" / "00.png.png").is_file()
    assert (call.folder / "again" / "odd" / "01.png").is_file()
    call("reconstruct", "m.vae", "photos/", "--out", "again.png")
    call("reconstruct", "m.vae", "photos/", "--out", "again.npy")
    assert np.load("again.npy").shape == (N + 1, 16, 16, 3)
    call("reconstruct", "m.vae", "photos/", "--out", "again.csv")
    assert rows("again.csv")[0]["file"] == "even/00.jpg"
    call("sample", "grey.vae", "-n", "4", "--out", "grey.png")
    assert call("sample", "m.vae", "--out", "photos/", code=2)["code"] == "E220"


def test_pictures_that_are_read_are_never_replaced(call):
    photos = call.folder / "photos"
    for path in list((photos / "odd").iterdir()):
        path.rename(path.with_suffix(".png"))
    (call.folder / "links").mkdir()
    (call.folder / "links" / "a.png").symlink_to(photos / "odd" / "01.png")
    (call.folder / "there").symlink_to(photos)
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    again, one = ("reconstruct", "m.vae"), "photos/odd/01.png"
    for words in (
        (*again, "photos", "--out", one),
        (*again, one, "--out", one),
        (*again, "photos/*/*.png", "--out", one),
        (*again, "links", "--out", one),
        (*again, "links", "--out", "photos/odd/"),
        (*again, "photos", "--out", "there/sub/"),
        ("score", "m.vae", "*/odd/*.png", "--out", "s.csv", "--heatmaps", "photos/odd"),
        ("plot", "m.vae", "reconstructions", "photos", "--out", one),
    ):
        assert call(*words, "--overwrite", code=2)["code"] == "E236", words
    assert {path: path.read_bytes() for path in photos.rglob("*.*")} == before


def test_names_that_are_no_text(call):
    folder = os.fsdecode(b"photos\xe9")
    (call.folder / "photos").rename(folder)
    path = call.folder / folder / "odd" / "01.jpg"
    path.rename(path.with_name(os.fsdecode(b"\xe9.jpg")))
    call("score", "m.vae", folder, *OUT)
    assert "odd/\\xe9.jpg" in [row["file"] for row in rows("s.csv")]
    call("reconstruct", "m.vae", folder, "--out", "again/")
    assert (call.folder / "again" / "odd" / "\\xe9.png").is_file()
    call("fit", folder, *QUICK, "--out", "n.vae")
    assert call("info", "n.vae")


def test_a_model_reads_pictures_in_its_own_size_and_colours(call):
    assert call("score", "grey.vae", "photos/", "--out", "s.csv")["rows"] == N
    array = np.stack([shades(16, 16, i) for i in range(3)])
    assert call_score(np.moveaxis(array, -1, 1)) == pytest.approx(call_score(array))
    wrong = np.zeros((3, 12, 16, 3), np.uint8)
    with pytest.raises(lowerbound.errors.DataError, match="resize"):
        call_score(wrong)


def call_score(array):
    return commands.score("m.vae", array).table[:, 0].tolist()


def test_inspect_tells_of_a_folder(call):
    spoil(call.folder / "photos")
    (call.folder / "photos" / "deep.png").write_bytes(packed(shades()[..., 0].astype(np.uint16)))
    (call.folder / "photos" / "notes.txt").write_text("words")
    told = call("inspect", "photos/")
    assert (told["rows"], told["readable"], told["channels"]) == (N + 2, N + 1, 3)
    assert told["unreadable"] == [{"file": "broken0.jpg", "reason": "it is cut short"}]
    assert told["ignored"] == {".txt": 1}
    assert told["labels"] == {"even": 12, "odd": 12, "": 2}
    assert not told["labelled"]
    assert told["sizes"][0]["width"] == 48
    assert (told["deep"], told["grey"]) == (1, 1)
    then = "lowerbound fit photos/ --on-bad-file skip"  # or it would be refused
    assert commands.inspect("photos/").next == then
    os.remove("photos/broken0.jpg")
    assert commands.inspect("photos/").next == "lowerbound fit photos/"
    spoil(call.folder / "photos")
    shutil.rmtree("photos/even")
    shutil.rmtree("photos/odd")
    os.remove("photos/deep.png")
    assert call("inspect", "photos/", code=3)["code"] == "E083"  # of one, its own error
    spoil(call.folder / "photos", 2)
    assert call("inspect", "photos/", code=3)["code"] == "E084"


def test_folders_are_labels_in_all_results(call):
    assert call("inspect", "photos/")["labelled"]
    assert "labels, by their folders: even (12), odd (12)" in commands.inspect("photos/").lines
    for verb in ("score", "embed"):
        call(verb, "m.vae", "photos/", "--out", f"{verb}.csv")
        found = rows(f"{verb}.csv")
        assert all(row["label"] == row["file"].split("/")[0] for row in found)
    told = call("evaluate", "m.vae", "photos/", "--samples", "2")
    each = told["labels"]
    assert {name: part["rows"] for name, part in each.items()} == {"even": 12, "odd": 12}
    mean = sum(part["rows"] * part["iw_nll"] for part in each.values()) / N
    assert mean == pytest.approx(told["iw_nll"], rel=1e-5)
    plot = ["plot", "m.vae", "embedding", "photos/", "--color", "label", "--out", "map.svg"]
    assert call(*plot)["rows"] == N
    (call.folder / "photos" / "root.png").write_bytes(packed(shades()))
    call("score", "m.vae", "photos/", "--out", "mixed.csv")
    assert "label" not in rows("mixed.csv")[0]  # as one has none


def test_all_commands_count_the_same_unreadable_files(call):
    spoil(call.folder / "photos" / "odd", 2)
    (call.folder / "photos" / "odd" / "range.tif").write_bytes(
        packed(shades()[..., 0].astype(np.float32), "TIFF")
    )
    skip = ("--on-bad-file", "skip")
    wanted = call("inspect", "photos/")["unreadable"]
    assert [each["file"] for each in wanted] == [
        "odd/broken0.jpg", "odd/broken1.jpg", "odd/range.tif"
    ]  # fmt: skip
    assert call("fit", "photos/", *QUICK, "--out", "new.vae", *skip)["unreadable"] == wanted
    for verb, more in READERS.items():
        kind = ["reconstructions"] if verb == "plot" else []
        flags = [word.replace("rows.csv", f"{verb}.csv") for word in more]
        assert call(verb, "m.vae", *kind, "photos/", *flags, *skip)["unreadable"] == wanted, verb
    report = call("report", "m.vae", "photos/", "--out", "r.html", *skip)
    assert report["unreadable"] == wanted


def test_twelve_bits_in_16_are_learned_and_scored_with_one_white(call):
    for i in range(6):
        deep = np.rint(shades(16, 16, i)[..., 0] * (4095 / 255)).astype(np.uint16)
        path = call.folder / "deep" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(packed(deep))
        path = call.folder / "flat" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(packed(shades(16, 16, i)[..., 0]))
    told = call("inspect", "deep")
    assert (told["deep"], told["white"]) == (6, 4095)
    told = call("fit", "deep", *QUICK, "--out", "deep.vae")
    assert any("white is 4,095" in note for note in told["notes"])
    for name in ("deep", "flat"):
        call("score", "deep.vae", name, "--out", f"{name}.csv")
    deep, flat = (
        [float(row["anomaly_score"]) for row in rows(f"{name}.csv")] for name in ("deep", "flat")
    )
    assert deep == pytest.approx(flat)  # the same pictures, in 12 and in 8 bits
    dark = np.full((16, 16), 900, np.uint16)
    (call.folder / "dark.png").write_bytes(packed(dark))
    coding = lowerbound.load("deep.vae").coding
    assert coding.white == coding.wanted().white == 4095
    grey = read(call.folder / "dark.png", wanted=coding.wanted())
    assert (grey.pixels == 56).all()


def test_a_model_of_all_frames_reads_all_frames_ever_after(call):
    for i in range(4):
        pages = [Image.fromarray(shades(16, 16, 3 * i + j)) for j in range(3)]
        (call.folder / "stacks").mkdir(exist_ok=True)
        path = call.folder / "stacks" / f"{i}.tif"
        pages[0].save(path, save_all=True, append_images=pages[1:])
    told = call("inspect", "stacks")
    assert (told["rows"], told["frames"]) == (4, 4)
    assert any("8 frames more left out" in note for note in commands.inspect("stacks").notes)
    told = commands.inspect("stacks", all_frames=True)
    assert told.facts["rows"] == 12
    assert told.next == "lowerbound fit stacks --all-frames"
    told = call("fit", "stacks", "--all-frames", *QUICK, "--out", "all.vae")
    assert told["rows"] == 12
    call("score", "all.vae", "stacks", "--out", "s.csv")
    assert [row["file"] for row in rows("s.csv")][:4] == [
        "0.tif#0", "0.tif#1", "0.tif#2", "1.tif#0"
    ]  # fmt: skip
    call("score", "m.vae", "stacks", "--out", "first.csv")
    assert len(rows("first.csv")) == 4


def test_what_comes_next_is_for_pictures(call):
    assert commands.info("m.vae").next == "lowerbound score m.vae NEW/ --out scores.csv"
    assert doctor("m.vae").next == "lowerbound doctor m.vae NEW/"
    then = commands.embed("m.vae", "photos/").next
    assert then == "lowerbound sample m.vae -n 16 --out grid.png"


def test_a_model_that_is_worse_than_guessing_is_not_called_well(call):
    health = call("info", "m.vae")["health"]  # of one step
    assert health["valid_elbo"] < -16 * 16 * 3 * np.log(256)
    assert health["verdict"] != "healthy"
    assert "a uniform guess takes 8.00" in health["lines"][0]
    assert any("uniform guess" in line for line in doctor("m.vae", "photos/").lines)


def test_unreadable_files_are_skipped_or_not(call):
    spoil(call.folder / "photos", 2)
    fit = ["fit", "photos/", *QUICK, "--out", "new.vae"]
    told = call(*fit, code=3)
    assert told["code"] == "E084"
    assert "broken0.jpg (it is cut short)" in told["message"]
    assert "--on-bad-file skip" in told["hint"]
    assert call(*fit, "--on-bad-file", "fail", code=3)["code"] == "E083"
    assert not os.path.exists("new.vae")
    told = call(*fit, "--on-bad-file", "skip")
    assert told["rows"] == N
    assert any("2 unreadable files skipped" in note for note in told["notes"])
    for verb in ("score", "embed", "reconstruct"):
        words = [verb, "m.vae", "photos/", "--out", f"{verb}.csv"]
        assert call(*words, code=3)["code"] == "E084"
        assert not os.path.exists(f"{verb}.csv")
        call(*words, "--on-bad-file", "skip")
        assert len(rows(f"{verb}.csv")) == N


READERS = {
    "evaluate": ["--samples", "2"],
    "impute": ["--out", "full.npy"],
    "doctor": [],
    "plot": ["--out", "seen.png"],
    **{verb: ["--out", "rows.csv"] for verb in ("score", "embed", "reconstruct")},
}


@pytest.mark.parametrize("verb", READERS)
def test_whatever_reads_pictures_leaves_out_a_broken_one_of_many_and_says_so(call, verb):
    many = call.folder / "many"
    many.mkdir()
    for i in range(110):
        (many / f"{i:03d}.png").write_bytes(packed(shades(16, 16, i)))
    spoil(many)
    before = sorted(os.listdir())

    def read(folder, *more, code=0):
        kind = ["reconstructions"] if verb == "plot" else []
        return call(verb, "m.vae", *kind, folder, *READERS[verb], *more, code=code)

    assert read("many/", "--on-bad-file", "fail", code=3)["code"] == "E083"
    assert read("many/", "--on-bad-file", "perhaps", code=2)["code"] == "E241"
    spoil(call.folder / "photos")  # one of 25 is more than 1 %
    assert read("photos/", code=3)["code"] == "E084"
    assert sorted(os.listdir()) == before
    (note,) = (note for note in read("many/")["notes"] if "unreadable" in note)
    assert "1 unreadable file skipped" in note
    assert "broken0.jpg" in note
    again = ["--overwrite"] if "--out" in READERS[verb] else []
    skipped = read("photos/", "--on-bad-file", "skip", *again)["notes"]
    assert any("1 unreadable file skipped (4.00%)" in note for note in skipped)


@pytest.mark.parametrize(
    ("words", "code", "exit_code", "told"),
    [
        (["fit", "photos/", "--size", "0"], "E231", 2, "--size 64"),
        (["fit", "photos/", "--size", "8x8x8"], "E231", 2, "--size 64"),
        (["fit", "photos/", "--on-bad-file", "skp"], "E241", 2, "--on-bad-file skip"),
        (["fit", "photos/", "--recipe", "table"], "E027", 3, "--recipe conv"),
        (["fit", "photos/", "--types", "a=real"], "E249", 2, "leave them out"),
        (["fit", "phots/"], "E001", 3, "photos"),
        (["fit", "photos/", "--set", "chanels=8"], "E242", 2, "channels"),
        (
            ["score", "m.vae", "photos/", *OUT, "--heatmaps", "photos/h"],
            "E236",
            2,
            "another --out",
        ),
        (["score", "m.vae", "photos/", *OUT, "--heatmaps", "grey.npy"], "E223", 2, "another name"),
        (["score", "m.vae", "photos/", *OUT, "--heatmaps", "no/heat"], "E302", 5, "mkdir"),
        (["score", "tx.vae", "tx.csv", *OUT, "--heatmaps", "heat"], "E246", 2, "--explain"),
        (
            ["score", "m.vae", "photos/", *OUT, "--by", "levels", "--heatmaps", "heat"],
            "E236",
            2,
            "leave out --heatmaps",
        ),
        (["sample", "tx.vae", "-n", "4", "--out", "grid.png"], "E246", 2, "rows.csv"),
        (["sample", "tx.vae", "-n", "4", "--out", "many/"], "E246", 2, "rows.csv"),
        (["reconstruct", "tx.vae", "tx.csv", "--out", "many"], "E246", 2, "rows.csv"),
        (["score", "tx.vae", "photos/", *OUT], "E027", 3, "--recipe conv"),
    ],
)
def test_what_cannot_be_says_so(call, words, code, exit_code, told):
    if "tx.vae" in words:
        rng = np.random.default_rng(0)
        np.savetxt("tx.csv", rng.normal(size=(60, 3)), header="a,b,c", delimiter=",", comments="")
        call("fit", "tx.csv", "--max-epochs", "1", "--out", "tx.vae")
    before = sorted(p.name for p in call.folder.rglob("*"))
    error = call(*words, code=exit_code)
    assert error["code"] == code
    assert told in error["hint"]
    left = sorted(p.name for p in call.folder.rglob("*"))
    assert left == before


def test_the_python_functions_take_folders_too(call):
    scored = commands.score("m.vae", call.folder / "photos")
    assert scored.facts["rows"] == N
    again = commands.reconstruct("m.vae", call.folder / "photos")
    assert again.table.shape == (N, 16, 16, 3)
    drawn = commands.sample("m.vae", n=2).table
    assert drawn.num_columns == 16 * 16 * 3
    vae = lowerbound.VAE.load("m.vae")
    assert vae.score_samples(call.folder / "photos").shape == (N,)
    assert vae.sample(3).shape == (3, 16, 16, 3)
