# ruff: noqa: E501 - a case per line reads better
"""Bad flags, configurations, files and places: one error, the right code, nothing written."""

import os
import stat

import pytest

# A case: what it is, the command, the code of the error, the exit code, what the text must name.
USAGE = [
    ("unknown command", ["fitt", "tx.csv"], "E230", ["lowerbound fit tx.csv"]),
    ("a word of another tool", ["train", "tx.csv"], "E230", ["lowerbound fit tx.csv"]),
    ("a flag before the command", ["--foo", "fit"], "E230", ["--foo"]),
    ("unknown flag", ["fit", "tx.csv", "--presett", "fast"], "E230", ["--preset fast"]),
    ("unknown short flag", ["sample", "tx.vae", "-k", "3"], "E230", ["-k"]),
    ("flag of another verb", ["score", "tx.vae", "tx.csv", "--preset", "fast"], "E230", ["--preset"]),
    ("no data", ["fit"], "E232", ["data", "lowerbound fit"]),
    ("no model", ["verify"], "E232", ["model"]),
    ("no output", ["score", "tx.vae", "tx.csv"], "E232", ["--out score.csv"]),
    ("flag without value", ["score", "tx.vae", "tx.csv", "--out"], "E232", ["--out"]),
    ("too many words", ["inspect", "tx.csv", "more.csv"], "E236", ["more.csv"]),
    ("a number that is none", ["evaluate", "tx.vae", "tx.csv", "--samples", "x"], "E231", ["'x'"]),
    ("a fraction", ["sample", "tx.vae", "-n", "1.5", "--out", "o.csv"], "E231", ["whole"]),
    ("flag twice", ["fit", "tx.csv", "--preset", "fast", "--preset", "best"], "E236", ["--preset"]),
    ("preset", ["fit", "tx.csv", "--preset", "fasst"], "E241", ["fast"]),
    ("recipe", ["fit", "tx.csv", "--recipe", "tabel"], "E241", ["table"]),
    ("transform", ["fit", "tx.csv", "--transform", "quantiles"], "E241", ["quantile"]),
    ("alarm rate 0", ["fit", "tx.csv", "--alarm-rate", "0"], "E240", ["alarm_rate", "--alarm-rate"]),
    ("alarm rate 5", ["fit", "tx.csv", "--alarm-rate", "5"], "E231", ["5%"]),
    ("alarm rate word", ["fit", "tx.csv", "--alarm-rate", "low"], "E231", ["0.1%"]),
    ("time limit", ["fit", "tx.csv", "--time-limit", "10x"], "E231", ["10m"]),
    ("time limit 0", ["fit", "tx.csv", "--time-limit", "0s"], "E240", ["time_limit", "--time-limit"]),
    ("epochs 0", ["fit", "tx.csv", "--max-epochs", "0"], "E240", ["max_epochs", "--max-epochs"]),
    ("epochs word", ["fit", "tx.csv", "--max-epochs", "many"], "E231", ["many"]),
    ("latent 0", ["fit", "tx.csv", "--latent", "0"], "E240", ["latent"]),
    ("latent word", ["fit", "tx.csv", "--latent", "big"], "E231", ["big"]),
    ("negative seed", ["fit", "tx.csv", "--seed=-1"], "E240", ["seed"]),
    ("seed too big", ["fit", "tx.csv", "--seed", str(2**70)], "E240", ["seed"]),
    ("device", ["fit", "tx.csv", "--device", "cuda:99"], "E244", ["--device cpu"]),
    ("device word", ["fit", "tx.csv", "--device", "gpu"], "E244", ["--device cpu"]),
    ("set without =", ["fit", "tx.csv", "--set", "beta"], "E231", ["beta=2"]),
    ("set unknown", ["fit", "tx.csv", "--set", "betta=2"], "E242", ["--set beta"]),
    ("set of what data decide", ["fit", "tx.csv", "--set", "sizes=[1]"], "E242", ["sizes"]),
    ("set latent", ["fit", "tx.csv", "--set", "latent=3"], "E236", ["--latent"]),
    ("set of wrong type", ["fit", "tx.csv", "--set", "hidden=3"], "E231", ["hidden"]),
    ("set empty list", ["fit", "tx.csv", "--set", "hidden=[]"], "E231", ["hidden"]),
    ("set negative", ["fit", "tx.csv", "--set", "beta=-1"], "E231", ["beta"]),
    ("set NaN", ["fit", "tx.csv", "--set", "free_bits=NaN"], "E231", ["free_bits"]),
    ("set word", ["fit", "tx.csv", "--set", "likelihood=studnt"], "E241", ["student"]),
    ("set twice", ["fit", "tx.csv", "--set", "beta=1", "--set", "beta=2"], "E236", ["beta"]),
    ("types without =", ["fit", "tx.csv", "--types", "amount"], "E231", ["zip=categorical"]),
    ("types of no kind", ["fit", "tx.csv", "--out", "m.vae", "--types", "amount=numbr"], "E202", ["number"]),
    ("types of no column", ["fit", "tx.csv", "--out", "m.vae", "--types", "amont=real"], "E203", ["amount"]),
    ("drop of no column", ["fit", "tx.csv", "--out", "m.vae", "--drop", "amont"], "E203", ["amount"]),
    ("config missing", ["fit", "tx.csv", "--config", "none.toml"], "E234", ["none.toml"]),
    ("config is a folder", ["fit", "tx.csv", "--config", "."], "E234", ["--print-config"]),
    ("explain below 0", ["score", "tx.vae", "tx.csv", "--out", "o.csv", "--explain=-1"], "E240", []),
    ("fdr", ["score", "tx.vae", "tx.csv", "--out", "o.csv", "--fdr", "1.5"], "E231", ["--fdr"]),
    ("explain in an array", ["score", "tx.vae", "tx.csv", "--out", "o.npy", "--explain", "1"], "E236", []),
    ("n 0", ["sample", "tx.vae", "-n", "0", "--out", "o.csv"], "E240", ["-n"]),
    ("n enormous", ["sample", "tx.vae", "-n", "10000000000", "--out", "o.csv"], "E240", ["8 GB"]),
    ("temperature", ["sample", "tx.vae", "--temperature", "0", "--out", "o.csv"], "E240", []),
    ("where no column", ["sample", "tx.vae", "--out", "o.csv", "--where", "county=FR"], "E243", ["country"]),
    ("draws 0", ["impute", "tx.vae", "tx.csv", "--out", "o.csv", "--draws", "0"], "E240", ["--draws"]),
    ("samples 0", ["evaluate", "tx.vae", "tx.csv", "--samples", "0"], "E240", ["--samples"]),
    ("suffix", ["score", "tx.vae", "tx.csv", "--out", "o.xlsx"], "E222", [".csv"]),
    ("output exists", ["score", "tx.vae", "tx.csv", "--out", "old.csv"], "E220", ["--overwrite"]),
    ("model exists", ["fit", "tx.csv", "--out", "tx.vae"], "E220", ["--overwrite"]),
    ("output is the input", ["score", "tx.vae", "tx.csv", "--out", "tx.csv", "--overwrite"], "E236", []),
    ("model over a file", ["fit", "tx.csv", "--out", "old.csv", "--overwrite"], "E221", ["old.csv"]),
    ("output is a folder", ["score", "tx.vae", "tx.csv", "--out", "tx.vae"], "E222", []),
    ("the former name of error", ["explain", "E031"], "E230", ["lowerbound error E031"]),
    ("no such code", ["error", "E999"], "E238", ["E999"]),
]  # fmt: skip

OTHER = [
    ("no such data", ["fit", "tx2.csv", "--out", "m.vae"], "E001", 3, ["tx.csv"]),
    ("an address", ["inspect", "https://example.org/a.csv"], "E006", 3, ["download"]),
    ("empty file", ["inspect", "empty.csv"], "E004", 3, ["empty.csv"]),
    ("pickle", ["inspect", "some.pkl"], "E005", 3, ["some.pkl"]),
    ("renaming what is not there", ["inspect", "tx.csv", "--rename", "amont=a"], "E239", 3, ["amount"]),
    ("renaming onto another", ["inspect", "tx.csv", "--rename", "fee=amount"], "E239", 3, ["amount"]),
    ("where no number", ["sample", "tx.vae", "--out", "o.csv", "--where", "visits=few"], "E032", 3, ["visits", "number"]),
    ("where beyond", ["sample", "tx.vae", "--out", "o.csv", "--where", "visits=99999"], "E074", 3, ["visits", "99999"]),
    ("where unseen", ["sample", "tx.vae", "--out", "o.csv", "--where", "country=XX"], "E074", 3, ["XX"]),
    ("too few rows", ["fit", "one.csv", "--out", "m.vae"], None, 3, []),
    ("numbers only", ["fit", "tx.csv", "--recipe", "sigma", "--out", "m.vae"], "E071", 3, ["--recipe table"]),
    ("no such model", ["score", "tx2.vae", "tx.csv", "--out", "o.csv"], "E101", 4, ["tx2.vae"]),
    ("swapped", ["score", "tx.csv", "tx.vae", "--out", "o.csv"], None, 4, ["tx.csv"]),
    ("damaged model", ["verify", "bad.vae"], "E115", 4, ["weights.safetensors"]),
    ("damaged model, used", ["embed", "bad.vae", "tx.csv", "--out", "o.csv"], "E115", 4, []),
    ("no such folder", ["fit", "tx.csv", "--out", "nowhere/m.vae"], "E302", 5, ["mkdir -p nowhere"]),
    ("no such folder, rows", ["score", "tx.vae", "tx.csv", "--out", "nowhere/o.csv"], "E302", 5, []),
    ("name too long", ["fit", "tx.csv", "--out", "m" * 300 + ".vae"], "E302", 5, []),
]  # fmt: skip


@pytest.fixture
def place(folder):
    (folder / "old.csv").write_text("keep me\n")
    (folder / "empty.csv").write_text("")
    (folder / "some.pkl").write_bytes(b"\x80\x04N.")
    (folder / "one.csv").write_text("a,b\n1,2\n")
    bad = folder / "bad.vae"
    (folder / "tx.vae").rename(bad)
    weights = bad / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    good = bytes(content)
    content[-1] ^= 1
    (folder / "tx.vae").mkdir()
    for file in bad.iterdir():
        (folder / "tx.vae" / file.name).write_bytes(file.read_bytes())
    assert (folder / "tx.vae" / "weights.safetensors").read_bytes() == good
    weights.write_bytes(bytes(content))
    return folder


def everything(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize(
    ("words", "code", "exit_code", "named"),
    [
        *(pytest.param(words, code, 2, named, id=name) for name, words, code, named in USAGE),
        *(pytest.param(*case[1:], id=case[0]) for case in OTHER),
    ],
)
def test_refusal(place, run, words, code, exit_code, named):
    before = everything(place)
    done = run(*words)
    assert done.code == exit_code, done.err
    assert done.out == ""
    lines = done.err[done.err.index("error[") :].rstrip().splitlines()
    assert lines[0].startswith(f"error[{code or 'E'}")
    assert lines[-1].startswith("  why: lowerbound error E")
    assert len(lines) <= 12
    assert "Traceback" not in done.err
    for word in named:
        assert word in done.err
    as_json = run(*words, "--json")
    assert as_json.code == exit_code
    assert as_json.out == ""
    assert as_json.error["exit"] == exit_code
    assert code is None or as_json.error["code"] == code
    assert set(as_json.error) == {"code", "exit", "message", "hint", "details"}
    assert everything(place) == before


def test_all_problems_at_once(place, run):
    (place / "bad.toml").write_text(
        'presett = "fast"\nseed = "x"\nalarm_rate = 7\n[settings]\nbetta = 1\n[typos]\na = "real"\n'
    )
    before = everything(place)
    words = ["--config", "bad.toml", "--latent", "0", "--time-limit", "soon"]
    done = run("fit", "tx.csv", "--out", "m.vae", *words, "--json")
    assert done.code == 2
    assert done.error["code"] == "E233"
    found = [problem["code"] for problem in done.error["details"]["problems"]]
    assert sorted(found) == sorted(["E235", "E235", "E231", "E231", "E242", "E240", "E231"])
    for word in ("'preset'", "'types'", "--seed", "--alarm-rate", "betta", "latent", "soon"):
        assert word in done.error["message"]
    assert everything(place) == before


@pytest.mark.parametrize(
    "text",
    ["a = = 1", "seed = 1\nseed = 2", "\tseed:\n  1", "\x00", "a: &a [*a, *a]", "seed = 1e999 x"],
    ids=["syntax", "key twice", "yaml", "nul", "yaml bomb", "rest"],
)
def test_configuration_that_is_no_toml(folder, run, text):
    (folder / "c.toml").write_text(text)
    assert run("fit", "tx.csv", "--config", "c.toml", "--json").error["code"] in ("E234", "E235")


@pytest.mark.parametrize(
    "text",
    ["preset = 3", "types = 5", "drop = 1", "seed = 1.5", "max_epochs = true", "time_limit = []",
     "latent = false", "settings = 'beta'", "alarm_rate = 'x'", "device = 0"],
)  # fmt: skip
def test_configuration_of_the_wrong_type(folder, run, text):
    (folder / "c.toml").write_text(text)
    done = run("fit", "tx.csv", "--config", "c.toml", "--json")
    assert done.code == 2
    assert done.error["code"] in ("E231", "E240", "E241")
    assert text.split(" ")[0].replace("_", "-") in done.error["message"].replace("set", "settings")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(folder, run):
    (folder / "closed").mkdir()
    (folder / "closed").chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert run("fit", "tx.csv", "--out", "closed/m.vae", "--json").error["code"] == "E302"
    assert run("score", "tx.vae", "tx.csv", "--out", "closed/s.csv").code == 5


def test_overwrite_replaces(folder, run):
    assert run("score", "tx.vae", "tx.csv", "--out", "s.csv").code == 0
    (folder / "s.csv").write_text("old")
    assert run("score", "tx.vae", "tx.csv", "--out", "s.csv").code == 2
    assert run("score", "tx.vae", "tx.csv", "--out", "s.csv", "--overwrite").code == 0
    assert (folder / "s.csv").read_text() != "old"


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (KeyError("x"), "E269", 1),
        (MemoryError(), "E303", 5),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "E303", 5),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "E303", 5),
    ],
)
def test_what_nobody_foresaw(run, monkeypatch, error, code, exit_code):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("lowerbound.cli.commands.inspect.open_data", fail)
    done = run("inspect", "tx.csv", "--json")
    assert done.code == exit_code
    assert done.error["code"] == code
    assert "Traceback" not in run("inspect", "tx.csv").err
    with pytest.raises(type(error)):
        run("inspect", "tx.csv", "--debug")


def test_the_fix_is_a_whole_command(run):
    assert (
        "fix: lowerbound fit tx.csv --preset fast\n" in run("fit", "tx.csv", "--preset", "fas").err
    )
    err = run("fit", "tx.csv", "--device", "cuda:99", "--out", "m.vae").err
    assert "fix: lowerbound fit tx.csv --out m.vae --device cpu\n" in err
