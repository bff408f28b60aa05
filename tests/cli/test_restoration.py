"""denoise, upscale, inpaint and segment on the command line, on folders of ordinary pictures."""

import os

import numpy as np
import pytest
from PIL import Image

import commands
import zoo
from lowerbound import Model
from lowerbound.cli.commands.doctor import doctor
from lowerbound.cli.commands.restore import Common
from lowerbound.cli.main import main
from lowerbound.errors import UsageError
from lowerbound.files.pictures.image_file import decode
from lowerbound.tasks import before_after
from lowerbound.training import split
from picture_files import shades

SIZES = [(40, 30), (64, 80), (33, 57), (50, 50)]
SMALL = ["--time-limit", "0.5s", "--set", "width=4", "--set", "depth=1"]
MORE = {
    "denoise": ["--set", "noise=gaussian:20"],
    "upscale": ["--set", "scale=2"],
    "inpaint": [],
    "segment": [],
}


def write(path, page):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(page).save(path)


def models(root):
    """Pictures, masks of them, and a model of each kind."""
    for i, (height, width) in enumerate(SIZES * 3):
        page = shades(height, width, i)
        write(root / f"photos/{'ab'[i % 2]}/{i}.jpg", page)
        write(root / f"grey/{i}.png", page[..., 0])
        write(root / f"masks/{i}.png", np.where(page[..., 0] > 99, 200, 7).astype(np.uint8))
    for recipe, more in MORE.items():
        data = [str(root / "grey"), "--targets", str(root / "masks")]
        data = data if recipe == "segment" else [str(root / "photos")]
        words = ["fit", *data, "--recipe", recipe, *SMALL, *more, "-q"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(split, "HELD_CROPS", 16)
            assert main([*words, "--out", str(root / f"{recipe}.vae")]) == 0


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    """Hold out few crops: to restore 128 after each fit takes longer than the fit."""
    monkeypatch.setattr(split, "HELD_CROPS", 16)


@pytest.fixture(scope="module")
def made():
    return zoo.folder(models)


@pytest.fixture
def call(made, tmp_path, spoken):
    """Run a command beside the models; return its facts, or its error."""
    for entry in made.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    return spoken


def test_every_picture_comes_back_with_its_uncertainty_and_draws(call):
    facts = call("denoise", "denoise.vae", "photos", "--out", "made", "--draws", "2")
    assert facts["pictures"] == 12
    assert 0 < facts["uncertainty"] < 255
    names = [f"{'ab'[i % 2]}/{i}.png" for i in range(12)]
    for part in ("", "uncertainty/", "draw1/", "draw2/"):
        for i, name in enumerate(names):
            page = decode(call.folder / "made" / f"{part}{name}")
            assert page.shape == (*(SIZES * 3)[i], 1 if part == "uncertainty/" else 3)
    overview = decode(call.folder / "made/_overview.png")
    assert overview.shape[1] > 5 * 100


@pytest.mark.parametrize("look", [commands.info, doctor])
def test_what_comes_next_is_the_verb_of_the_model(call, look):
    assert look("denoise.vae").next == "lowerbound denoise denoise.vae PICTURES --out made"
    holes = "lowerbound inpaint inpaint.vae PICTURES --mask HOLES --out made"
    told = look("inpaint.vae")
    assert told.next == holes
    assert not any("flags scores" in line for line in told.lines)  # it gives none


def test_larger_pictures(call):
    call("upscale", "upscale.vae", "photos", "--out", "large", "--scale", "2")
    page = decode(call.folder / "large/a/0.png")
    assert page.shape == (80, 60, 3)
    told = call("upscale", "upscale.vae", "photos", "--out", "l", "--scale", "4", code=2)
    assert told["code"] == "E247"
    assert "--scale 2" in told["hint"]


def test_a_scale_that_was_not_set_is_the_usual_one(call):
    call("fit", "grey", "--recipe", "upscale", *SMALL, "--out", "usual.vae")
    call("upscale", "usual.vae", "grey/0.png", "--out", "large")
    assert decode(call.folder / "large/0.png").shape == (160, 120, 1)


def test_holes_are_filled_and_nothing_else_changes(call):
    hole = np.zeros((50, 50), np.uint8)
    hole[10:20, 5:40] = 255
    write(call.folder / "hole.png", hole)
    given = decode(call.folder / "photos/b/3.jpg")
    call("inpaint", "inpaint.vae", "photos/b/3.jpg", "--mask", "hole.png", "--out", "full")
    page = decode(call.folder / "full/3.png")
    changed = (page != given).any(-1)
    assert changed[hole > 0].mean() > 0.5
    assert not changed[hole == 0].any()
    doubt = decode(call.folder / "full/uncertainty/3.png")[..., 0]
    assert (doubt[hole == 0] == 0).all()


def test_a_mask_of_another_size_is_refused(call):
    write(call.folder / "hole.png", np.zeros((9, 9), np.uint8))
    told = call(
        "inpaint", "inpaint.vae", "photos/b/3.jpg", "--mask", "hole.png", "--out", "x", code=3
    )
    assert told["code"] == "E089"
    assert not (call.folder / "x").exists()


def test_masks_of_another_size_are_not_called_unreadable_pictures(call):
    write(call.folder / "hole.png", np.zeros((1000, 9), np.uint8))
    words = ["inpaint", "inpaint.vae", "photos/b", "--mask", "hole.png", "--out", "x"]
    told = call(*words, code=3)
    assert told["code"] == "E089"
    assert told["message"].endswith("must have the size of its picture, 64x80, got 1000x9 pixels")
    told = call(*words, "--on-bad-file", "skip", code=3)
    assert "64x8 " not in told["message"]  # cut short, that is another size
    assert "..." in told["message"]


def test_a_plot_is_refused_by_a_model_that_needs_pictures(call):
    told = call("plot", "denoise.vae", "samples", "--out", "x.png", code=2)
    assert (told["code"], told["hint"]) == (
        "E247",
        "lowerbound denoise M.vae PICTURES --out FOLDER",
    )


@pytest.mark.parametrize("name", MORE)
def test_pictures_before_and_after_are_drawn(call, name):
    facts = call("plot", f"{name}.vae", "before-after", "photos", "-n", "3", "--out", "b.png")
    assert facts["pictures"] == 3
    assert decode(call.folder / "b.png").shape == (3 * 194 + 2, 6 * 194 + 2, 3)
    told = call("plot", f"{name}.vae", "before-after", "photos", "--out", "b.gif", code=2)
    assert told["code"] == "E222"


def test_what_is_shown_is_what_the_command_makes():
    """Of pictures that are not cut, before and after and their details."""
    box = before_after.Box(10, 20, 16)
    page = shades(40, 60)
    given = before_after.Shown("a", page, page, page[..., :1], box, "")
    whole, detail = given.whole, given.detail
    assert np.array_equal(detail[0], page[10:26, 20:36])
    assert detail[2].shape == (16, 16, 3)
    assert (whole[0][10, 20:36] == (230, 30, 20)).all()
    inside = np.s_[11:25, 21:35]
    assert np.array_equal(whole[0][inside], page[inside])
    assert np.array_equal(given.given, page)  # nothing is drawn into it


def test_a_detail_is_where_the_doubt_is(call):
    model = Model.load("denoise.vae")
    page = decode(call.folder / "photos/b/1.jpg")
    made = before_after.shown(model, "1", page)
    assert np.array_equal(made.made, model.restore(page).result)
    top, left, side = made.box
    mean = made.doubt[top : top + side, left : left + side].mean()
    assert mean >= made.doubt.mean()
    filled = before_after.shown(Model.load("inpaint.vae"), "1", page)
    hole = (filled.given != page).any(-1)
    assert 0 < hole.mean() < 0.9
    assert np.array_equal(
        filled.made[~hole & (page != 0).all(-1)], page[~hole & (page != 0).all(-1)]
    )
    large = before_after.shown(Model.load("upscale.vae"), "1", page)
    assert large.given.shape == large.made.shape == (128, 160, 3)


def test_given_pairs_are_not_said_to_be_made(call, capsys):
    words = ["fit", "grey", "--targets", "masks", "--recipe", "denoise", *SMALL, "--dry-run"]
    assert main(words) == 0
    spoken = capsys.readouterr().err
    assert "denoise, grey: as given" in spoken
    assert "gaussian" not in spoken


def test_inpainting_without_a_mask_is_refused(call):
    assert call("inpaint", "inpaint.vae", "photos", "--out", "x", code=2)["code"] == "E232"


def test_masks_have_the_colours_that_were_learned_from(call):
    facts = call("segment", "segment.vae", "photos", "--out", "found", "--draws", "1")
    assert facts["unit"] == "nats per pixel"
    assert 0 < facts["uncertainty"] < np.log(2) + 1e-6
    for part in ("", "draw1/"):
        page = decode(call.folder / f"found/{part}a/0.png")
        assert page.shape == (40, 30, 1)
        assert set(np.unique(page)) <= {7, 200}


def test_sixteen_bits_come_out_as_sixteen_bits(call):
    deep = (np.arange(48 * 48).reshape(48, 48) * 20).astype(np.uint16)
    write(call.folder / "deep/0.png", deep)
    call("denoise", "denoise.vae", "deep", "--out", "made")
    page = decode(call.folder / "made/0.png")
    assert page.dtype == np.uint16
    assert page.shape == (48, 48, 1)


def test_twelve_bits_in_16_have_their_own_white(call):
    flat = shades(48, 48)[..., :1]
    deep = np.rint(flat[..., 0] * (4095 / 255)).astype(np.uint16)
    write(call.folder / "deep/0.png", deep)
    write(call.folder / "flat/0.png", flat[..., 0])
    for name in ("deep", "flat"):
        call("denoise", "denoise.vae", name, "--out", f"made_{name}")
    page = decode(call.folder / "made_deep/0.png")
    assert page.dtype == np.uint16
    assert page.max() <= 4095
    again = decode(call.folder / "made_flat/0.png")
    assert np.abs(page / 4095 - again / 255).max() < 0.005  # the rounding of 8 bits
    model = Model.load(call.folder / "denoise.vae")
    full = (flat.astype(np.uint16)) * 257
    one, other = model.restore(full).result, model.restore(flat).result
    assert np.abs(one / 65535 - other / 255).max() < 0.003


def test_pairs_have_one_white(call):
    for name, factor in (("noisy", 16), ("clean", 4)):
        for i in range(3):
            page = shades(40, 40, i)[..., 0].astype(np.uint16) * factor
            write(call.folder / name / f"{i}.png", page)
    words = ["fit", "noisy", "--targets", "clean", "--recipe", "denoise", *SMALL]
    call(*words, "--out", "pairs.vae")
    assert Model.load("pairs.vae").coding.white == 4095
    assert commands.info("pairs.vae").facts["recipe"] == "denoise"


def test_only_the_first_page_is_restored_and_that_is_said(call):
    pages = [Image.fromarray(shades(20, 20, i)) for i in range(3)]
    (call.folder / "some").mkdir()
    pages[0].save(call.folder / "some/a.tif", save_all=True, append_images=pages[1:])
    facts = commands.denoise("denoise.vae", "some")
    assert any("2 frames more left out" in note for note in facts.notes)


def test_a_model_of_all_frames_restores_all_frames(call):
    for i in range(3):
        pages = [Image.fromarray(shades(40, 40, 2 * i + j)) for j in range(2)]
        (call.folder / "stacks").mkdir(exist_ok=True)
        path = call.folder / "stacks" / f"{i}.tif"
        pages[0].save(path, save_all=True, append_images=pages[1:])
    words = ["fit", "stacks", "--all-frames", "--recipe", "denoise", *SMALL]
    call(*words, "--out", "all.vae")
    assert call("denoise", "all.vae", "stacks", "--out", "made")["pictures"] == 6
    names = [f"{i}.tif#{j}.png" for i in range(3) for j in range(2)]
    assert sorted(os.listdir("made")) == [*names, "_overview.png", "uncertainty"]
    facts = call("plot", "all.vae", "before-after", "stacks", "-n", "9", "--out", "b.png")
    assert facts["pictures"] == 6
    told = call(*words, "--targets", "stacks", "--out", "other.vae", code=2)
    assert told["code"] == "E236"


def test_a_python_caller_gets_arrays(call):
    result = commands.denoise("denoise.vae", "grey/0.png", flags=Common(draws=1))
    (page,) = result.table
    assert page.result.shape == (40, 30, 1)
    assert len(page.draws) == 1
    assert result.path is None


def test_the_model_restores_one_array_as_the_command_does(call):
    made = commands.denoise(str(call.folder / "denoise.vae"), str(call.folder / "photos/a/0.jpg"))
    model = Model.load(call.folder / "denoise.vae")
    page = np.asarray(Image.open(call.folder / "photos/a/0.jpg"))
    restored = model.restore(page, draws=2)
    assert np.array_equal(restored.result, made.table[0].result)
    assert len(restored.draws) == 2
    assert restored.result.dtype == page.dtype
    grey = model.restore(page[..., 0])
    assert grey.result.shape == (*page.shape[:2], 1)
    with pytest.raises(UsageError, match="uint8"):
        model.restore(page / 255)


def test_what_cannot_be_read_is_counted_or_refused(call):
    folder = call.folder / "some"
    write(folder / "0.png", shades(20, 20, 0))
    (folder / "1.png").write_bytes(b"no picture")
    told = call("denoise", "denoise.vae", "some", "--out", "made", code=3)
    assert told["code"] == "E084"
    assert not (call.folder / "made").exists()
    facts = call("denoise", "denoise.vae", "some", "--out", "made", "--on-bad-file", "skip")
    assert [each["file"] for each in facts["unreadable"]] == ["1.png"]
    assert call("denoise", "denoise.vae", "some", "--out", "m", "--on-bad-file", "fail", code=3)


def test_a_fit_that_diverges_says_what_to_try(call):
    words = ["fit", "photos", "--recipe", "denoise", *SMALL[2:], "--time-limit", "60s"]
    told = call(*words, "--learning-rate", "1e30", "--out", "wild.vae", code=6)
    assert told["code"] == "E401"
    assert "column" not in told["message"]
    assert told["hint"].endswith("--learning-rate 0.0003 --resume never")
    assert not (call.folder / "wild.vae").exists()


def test_results_are_pictures_to_go_on_with(call):
    call("denoise", "denoise.vae", "grey", "--out", "made", "--draws", "1")
    facts = call("upscale", "upscale.vae", "made", "--out", "large")
    assert facts["pictures"] == 12
    assert decode(call.folder / "large/0.png").shape == (80, 60, 1)


def test_no_two_pictures_become_one(call):
    for name in ("a.jpg", "a.png", "a.jpg.png"):
        write(call.folder / "some" / name, shades(20, 20, 0))
    call("denoise", "denoise.vae", "some", "--out", "made")
    assert len(os.listdir("made/uncertainty")) == 3
    write(call.folder / "some/uncertainty/a.png.png", shades(20, 20, 0))
    told = call("denoise", "denoise.vae", "some", "--out", "other", code=2)
    assert told["code"] == "E236"
    assert "uncertainty/a.png.png" in told["message"]
    assert not (call.folder / "other").exists()


def test_what_is_there_is_not_replaced_unasked(call):
    call("denoise", "denoise.vae", "grey/0.png", "--out", "made")
    assert call("denoise", "denoise.vae", "grey/1.png", "--out", "made", code=2)["code"] == "E220"
    call("denoise", "denoise.vae", "grey/1.png", "--out", "made", "--overwrite")
    assert sorted(os.listdir(call.folder / "made")) == ["1.png", "_overview.png", "uncertainty"]
    other = call.folder / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("all of it")
    told = call("denoise", "denoise.vae", "grey/1.png", "--out", "other", "--overwrite", code=2)
    assert told["code"] == "E221"
    assert (other / "thesis.txt").read_text() == "all of it"


@pytest.mark.parametrize(
    "words",
    [
        ("score", "denoise.vae", "photos", "--out", "s.csv"),
        ("embed", "denoise.vae", "photos", "--out", "s.csv"),
        ("sample", "denoise.vae", "--out", "s.csv"),
        ("evaluate", "denoise.vae", "photos"),
        ("compare", "denoise.vae", "photos"),
        ("segment", "denoise.vae", "photos", "--out", "s"),
        ("plot", "denoise.vae", "samples", "--out", "s.png"),
        ("export", "denoise.vae", "--onnx", "s.onnx"),
    ],
)
def test_a_model_that_restores_does_nothing_else(call, words):
    told = call(*words, code=2)
    assert told["code"] in ("E246", "E247")
    assert words[-2] != "--out" or not (call.folder / words[-1]).exists()


def test_what_is_known_of_such_a_model(call):
    assert call("verify", "denoise.vae")["files"]
    facts = call("info", "segment.vae")
    assert facts["recipe"] == "segment"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["photos", "--recipe", "segment"], "E232"),
        (["photos", "--recipe", "denoise", "--size", "64"], "E236"),
        (["grey", "--recipe", "sigma", "--targets", "masks"], "E236"),
        (["grey", "--targets", "masks"], "E236"),
        (["photos", "--recipe", "denoise", "--set", "noise=snow:1"], "E231"),
        (["photos", "--recipe", "upscale", "--set", "scale=7"], "E240"),
        (["photos", "--recipe", "segment", "--targets", "masks"], "E087"),
        (["photos/a", "--recipe", "denoise", "--targets", "nowhere"], "E001"),
    ],
)
def test_fits_that_cannot_work_are_refused(call, words, code):
    told = call(
        "fit",
        *words,
        "--time-limit",
        "1s",
        "--out",
        "x.vae",
        code=3 if code in ("E087", "E001") else 2,
    )
    assert told["code"] == code
    assert not (call.folder / "x.vae").exists()


@pytest.mark.parametrize(
    "words",
    [
        "fit grey --recipe segment --targets masks --out masks/x.vae",
        "fit grey --recipe segment --targets masks --out grey/x.vae",
        "fit grey --recipe denoise --targets grey/../masks --out masks/x",
        "inpaint inpaint.vae grey --mask masks --out masks/made",
        "inpaint inpaint.vae grey --mask masks --out masks --overwrite",
        "inpaint inpaint.vae grey --mask held/masks --out held --overwrite",
        "inpaint inpaint.vae grey --mask held/masks/0.png --out held/masks --overwrite",
    ],
)
def test_results_do_not_come_to_lie_among_the_inputs(call, words):
    write(call.folder / "held/masks/0.png", np.zeros((40, 30), np.uint8))
    before = sorted(call.folder.rglob("*"))
    assert call(*words.split(), code=2)["code"] == "E236"
    assert sorted(call.folder.rglob("*")) == before


def test_a_recipe_that_a_file_names_is_taken(call):
    (call.folder / "plan.toml").write_text('recipe = "denoise"\n[settings]\nwidth = 4\n')
    call("fit", "photos", "--config", "plan.toml", *SMALL[:2], "--out", "named.vae")
    assert call("info", "named.vae")["recipe"] == "denoise"


def test_a_dry_run_of_a_fit(call):
    facts = call("fit", "photos", "--recipe", "denoise", "--set", "width=4", "--dry-run")
    assert facts["dry_run"]


def test_the_model_that_comes_with_the_library_is_used_by_its_name(tmp_path, monkeypatch, capsys):
    clean = shades(48, 56)
    noise = np.random.default_rng(0).normal(0.0, 25.0, clean.shape)
    noisy = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
    write(tmp_path / "noisy/a.png", noisy)
    monkeypatch.chdir(tmp_path)
    assert main(["denoise", "photos-denoise", "noisy", "--out", "made"]) == 0
    made = decode(tmp_path / "made/a.png", 3).astype(float)
    assert made.shape == clean.shape
    errors = [np.square(each - clean).mean() for each in (noisy.astype(float), made)]
    assert errors[1] < 0.25 * errors[0]  # more than 6 dB
    assert Model.load("photos-denoise").recipe.name == "denoise"
    capsys.readouterr()
    assert main(["info", "photos-denois"]) == 4
    assert "photos-denoise is a model that comes with the library" in capsys.readouterr().err
    (tmp_path / "photos-denoise").mkdir()  # a folder of that name goes first
    assert main(["info", "photos-denoise"]) == 4
