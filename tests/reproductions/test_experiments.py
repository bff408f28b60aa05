"""The papers' experiments: data with the right digests, arms that build, runs that go on."""

import hashlib
import json
import signal
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import numpy as np
import pytest
import torch
from scipy.io import savemat

from lowerbound import noise, recipes
from lowerbound.cli.main import main
from lowerbound.coding.augmentations import binarised
from lowerbound.coding.rows import Batch
from lowerbound.errors import DataError, UsageError
from lowerbound.nn.distributions.base import sample
from lowerbound.nn.objectives.schedules import Cosine, Stages
from lowerbound.nn.trace import Trace, from_prior
from reproductions import (
    EXPERIMENTS,
    Job,
    Scale,
    datasets,
    document,
    files,
    report,
    run_arm,
    running,
)
from reproductions.command import PROGRAM
from reproductions.experiment import close

TINY = Scale(1, 3, train=300, test=40)
# An NVAE's step is a thousand of another's; the scores of sprites boost trees for 40 classes.
SLOW = {
    "nvae-mnist": Scale(1, 2, train=100, test=4),
    "nvae-lesions": Scale(1, 2, train=100, test=4),
    "betatc-dsprites": Scale(1, 3, train=200, test=40, rows=60),
}


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    """Random images in the place of every data set: what is tested is not the pixels."""
    rng = np.random.default_rng(0)

    grey = rng.integers(0, 256, (400, 28, 28), np.uint8)

    def parts(x):
        return lambda seed: datasets.Parts(x[:300], x[300:340], x[340:])

    other = {"static-mnist": parts(grey // 128), "frey-faces": parts(grey[:, :, :20])}
    for name in datasets.DATASETS.keys() - {"sprites"}:  # which are drawn by code
        monkeypatch.setitem(datasets.DATASETS, name, other.get(name, parts(grey)))


def judged(name, folder, arms):
    """Run these arms of an experiment; the others are taken to have come out as the first."""
    experiment = EXPERIMENTS[name]
    scale = SLOW.get(name, TINY)
    done = {arm: run_arm(Job(experiment, scale, arm, 0, folder / arm)) for arm in arms}
    runs = {arm: [done.get(arm, done[arms[0]])] for arm in experiment.arms}
    made = document(name, experiment, "smoke", runs)
    assert json.loads(json.dumps(made)) == made
    assert not made["missing"]
    assert made["checks"]
    for arm in made["arms"].values():
        assert np.isfinite(arm["mean"][experiment.metric])
        assert 0 <= arm["mean"]["active"] <= arm["mean"]["latent"]
    return made


few = pytest.mark.filterwarnings("ignore:The number of unique classes")  # 40 angles in 60 rows


@few
@pytest.mark.parametrize(
    "name",
    [
        name if name == "iwae-mnist" else pytest.param(name, marks=pytest.mark.nightly)
        for name in EXPERIMENTS
    ],
)
def test_every_experiment_builds_runs_and_is_judged(name, tmp_path):
    made = judged(name, tmp_path, list(EXPERIMENTS[name].arms))
    assert made["arms"].keys() == EXPERIMENTS[name].arms.keys()


def test_a_finished_arm_is_not_run_again(tmp_path):
    job = Job(EXPERIMENTS["iwae-mnist"], TINY, "k=1", 0, tmp_path)
    first = run_arm(job)
    assert run_arm(job) == first  # seconds included


def test_an_interrupted_arm_has_no_result_and_goes_on(tmp_path, monkeypatch):
    job = Job(EXPERIMENTS["iwae-mnist"], Scale(3, 3, train=300, test=40), "k=1", 0, tmp_path / "a")
    whole = run_arm(job)
    again = job._replace(folder=tmp_path / "b")
    heard = []

    def say(line):
        heard.append(line)
        signal.raise_signal(signal.SIGINT)

    # A check after every epoch of 15 steps, so that there is something to interrupt.
    with pytest.raises(KeyboardInterrupt, match="kept in"):
        run_arm(again, say)
    assert heard
    assert not (again.folder / "result.json").exists()
    resumed = run_arm(again)
    assert resumed["nll"] == whole["nll"]
    assert resumed["steps"] == whole["steps"]


def test_arms_keep_to_their_own_results(tmp_path):
    for name, nll in (("beta-10", 3.0), ("beta-2", 2.0), ("beta-tc-0", 1.0), ("beta-old", 9.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps({"nll": nll}))

    def nlls(arm):
        return {seed: r["nll"] for seed, r in report.finished(tmp_path, arm).items()}

    assert nlls("beta") == {2: 2.0, 10: 3.0}
    assert nlls("beta-tc") == {0: 1.0}
    assert nlls("vae") == {}


def test_a_part_of_the_rows_is_of_all_kinds_of_rows():
    """The test set of static MNIST is sorted: its first rows are the digits 0 and 1."""
    rows = np.repeat(np.arange(10, dtype=np.uint8), 100)[:, None]
    for held, most in (("test", 200), ("", 200), ("valid", None)):
        some = running._some(rows, most, held)
        assert len(some) == (most or 1000)
        assert np.array_equal(some, running._some(rows, most, held))
        assert set(some[:100, 0]) == set(range(10))
    assert np.array_equal(running._some(rows, None, "test"), rows)


def test_a_missing_arm_leaves_no_verdict(tmp_path):
    experiment = EXPERIMENTS["iwae-mnist"]
    one = run_arm(Job(experiment, TINY, "k=1", 0, tmp_path))
    made = document("iwae-mnist", experiment, "smoke", {"k=1": [one, one]})
    assert made["missing"] == ["k=5"]
    assert made["checks"] == []
    assert made["arms"]["k=1"]["sd"]["nll"] == 0


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_an_arm_says_is_what_its_recipe_takes(name):
    for arm in EXPERIMENTS[name].arms.values():
        stored = json.loads(json.dumps(dict(arm.arguments)))
        assert stored == dict(arm.arguments)
        model = recipes.find(arm.recipe).make(stored).eval()
        source = noise.generator("arm")
        drawn = sample(model(None, Trace(from_prior(source), 2)), source)
        assert drawn.shape == (2, *EXPERIMENTS[name].shape)


def test_the_scales_of_an_experiment():
    for experiment in EXPERIMENTS.values():
        assert list(experiment.scales) == ["smoke", "short", "full"]
        epochs = [scale.epochs for scale in experiment.scales.values()]
        assert epochs == sorted(epochs)


def test_every_arm_that_must_hold_says_what_is_allowed():
    for experiment in EXPERIMENTS.values():
        assert any(arm.tolerance for arm in experiment.arms.values())


def test_the_list_stands_in_eighty_columns(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    assert main(["list"], PROGRAM) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    head = next(line for line in lines if line.startswith("experiment"))
    assert head.split() == ["experiment", "arm", "paper", "allowed", "ours", "seeds", "time"]
    for name in EXPERIMENTS:
        assert any(line.startswith(name) for line in lines)


def test_an_experiment_runs_where_it_is_told_to(capsys, tmp_path):
    where = ["--states", str(tmp_path / "s"), "--results", str(tmp_path), "--scale", "smoke"]
    words = ["run", "iaf-mnist", "--arm", "diagonal", *where]
    assert main([*words, "--device", "nowhere"], PROGRAM) == 2
    assert "E244" in capsys.readouterr().err
    assert (
        main([*words[:-4], "--results", str(tmp_path / "none"), "--scale", "smoke"], PROGRAM) == 5
    )
    assert "E302" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()  # nothing was begun
    assert main([*words, "--device", "cpu"], PROGRAM) == 0
    made = json.loads((tmp_path / "iaf-mnist.smoke.json").read_text())
    assert made["arms"]["diagonal"]["runs"][0]["device"] == "cpu"


def test_stages_of_the_iwae_paper():
    short = EXPERIMENTS["iwae-mnist"].optimiser(364, 2980)
    assert sum(short.schedule.lengths) == 364 * 2980
    assert short.rate(1, 1e-3) == 1e-3
    assert short.rate(2981, 1e-3) == pytest.approx(1e-3 * 10 ** (-1 / 7))
    full = EXPERIMENTS["iwae-mnist"].optimiser(3280, 1)
    assert full.schedule.lengths == tuple(3**i for i in range(8))
    assert full.schedule.values[-1] == pytest.approx(0.1)


# Data sets.


HOME = "https://example.org/mnist"


def published(content, url, path="set/x.gz"):
    return files.File(path, hashlib.sha256(content).hexdigest(), HOME, url)


def bits(texts):
    return {"a": np.frombuffer(texts[0], np.uint8) - 48}


def packed(content, url):
    digest = hashlib.sha256(bits([content])["a"].tobytes()).hexdigest()
    return files.Packed("set/x.npz", digest, ("a",), HOME, [url], bits)


@pytest.fixture
def place(monkeypatch, tmp_path):
    monkeypatch.setenv(files.PLACE, str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def server(tmp_path):
    """A web server of one file, 0101, on this machine."""
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / "x").write_bytes(b"0101")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}/"
        serving.shutdown()
        thread.join()


def test_a_missing_data_set_says_where_it_belongs(monkeypatch, place):
    file = published(b"", "")
    with pytest.raises(DataError, match="does not exist") as absent:
        file.bytes()
    assert "FOLDER/set/x.gz" in absent.value.fix
    assert absent.value.code == "E001"
    monkeypatch.delenv(files.PLACE)
    with pytest.raises(DataError, match="LOWERBOUND_DATA.*is not set") as nowhere:
        file.bytes()
    assert HOME in nowhere.value.fix
    assert "--download" in nowhere.value.fix
    with pytest.raises(UsageError, match="LOWERBOUND_DATA.*is not set"):
        file.fetch()


def test_other_bytes_are_refused(place):
    place.joinpath("set").mkdir(parents=True)
    (place / "set/x.gz").write_bytes(b"other")
    (place / "set/x.npz").write_bytes(b"other")
    for call in (published(b"these", "").bytes, packed(b"01", "").arrays):
        with pytest.raises(DataError, match="not the published file"):
            call()


def test_a_download_is_checked_and_is_done_once(place, server):
    heard = []
    wanted = [published(b"0101", server + "x"), packed(b"0101", server + "x")]
    files.fetch(wanted, heard.append)
    assert len(heard) == 2
    assert wanted[0].bytes() == b"0101"
    assert wanted[1].arrays()["a"].tolist() == [0, 1, 0, 1]
    files.fetch(wanted, heard.append)
    assert len(heard) == 2


def test_what_comes_in_its_place_leaves_nothing(place, server):
    for wrong in (published(b"1111", server + "x"), packed(b"1111", server + "x")):
        with pytest.raises(DataError, match="not the published file"):
            files.fetch([wrong], str)
    for gone in (published(b"", server + "y"), packed(b"1", "http://127.0.0.1:9/z")):
        with pytest.raises(DataError, match="could not be downloaded") as refused:
            files.fetch([gone], str)
        assert refused.value.code == "E078"
    assert list((place / "set").iterdir()) == []


def test_published_text_and_matlab_files_become_the_arrays():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, (3, 784), np.uint8)
    text = "\n".join(" ".join(map(str, row)) for row in rows.tolist()).encode() + b"\n"
    made = datasets._amat([text] * 3)
    assert list(made) == ["train", "valid", "test"]
    np.testing.assert_array_equal(np.unpackbits(made["test"], axis=1), rows)
    faces = rng.integers(0, 256, (5, 28, 20), np.uint8)
    file = BytesIO()
    savemat(file, {"ff": faces.reshape(5, 560).T})
    np.testing.assert_array_equal(datasets._mat([file.getvalue()])["images"], faces)


def test_every_data_set_says_what_it_is_read_from():
    assert datasets.FILES.keys() == datasets.DATASETS.keys()


# Views and schedules.


def test_binarised_batches_have_the_grey_levels_as_their_mean():
    x = torch.linspace(0, 1, 5).repeat(20_000, 1)
    seen = binarised(Batch(x), noise.generator("view"))
    assert set(seen.x.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(seen.x.mean(0), x[0], atol=0.015, rtol=0)
    assert seen.x[:, 0].max() == 0
    assert seen.x[:, 4].min() == 1
    again = binarised(Batch(x), noise.generator("view"))
    assert torch.equal(seen.x, again.x)
    assert not torch.equal(seen.x, binarised(Batch(x), noise.generator("other")).x)


def test_schedules():
    stages = Stages((2, 3), (1.0, 0.5))
    assert [stages(i) for i in range(7)] == [1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    cosine = Cosine(10, 0.1)
    assert cosine(0) == 1.0
    assert cosine(5) == pytest.approx(0.55)
    assert cosine(10) == cosine(99) == pytest.approx(0.1)


def test_a_verdict_is_one_sided_unless_told():
    assert close("x", 86.0, 86.76, 1.0).holds
    assert close("x", 87.7, 86.76, 1.0).holds
    assert not close("x", 87.8, 86.76, 1.0).holds
    assert not close("x", 80.0, 86.76, 1.0, below=2.0).holds


# The verb.


def test_arms_may_run_on_several_machines(tmp_path, monkeypatch):
    experiment = EXPERIMENTS["iwae-mnist"]
    monkeypatch.setitem(experiment.scales, "smoke", TINY)
    target = tmp_path / "iwae-mnist.smoke.json"

    def run(arm, machine):
        where = ["--states", str(tmp_path / machine), "--results", str(tmp_path)]
        words = ["run", "iwae-mnist", "--scale", "smoke", "--arm", arm, *where]
        assert main([*words, "--device", "cpu"], PROGRAM) == 0
        return json.loads(target.read_text())

    one = run("k=1", "here")
    assert one["missing"] == ["k=5"]
    both = run("k=5", "there")
    assert both["arms"]["k=1"] == one["arms"]["k=1"]
    assert both["missing"] == []
    assert len(both["checks"]) == 4
    # What another model or another scale has left is not taken for this one's, nor what the same
    # scale was before it changed.
    arm = one["arms"]["k=1"]
    shorter = {**arm["runs"][0], "epochs": 0.5}
    changes = [{"scale": "short"}]
    changes += [{"arms": {"k=1": {**arm, **c}}} for c in ({"recipe": "iaf"}, {"runs": [shorter]})]
    for change in changes:
        target.write_text(json.dumps({**one, **change}))
        assert run("k=5", "there")["missing"] == ["k=1"]


def test_the_command_of_a_result_tells_all_of_its_seeds(tmp_path, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS["iwae-mnist"].scales, "smoke", TINY)
    where = ["--states", str(tmp_path / "s"), "--results", str(tmp_path), "--device", "cpu"]
    for seeds in ("2", "1"):  # the second of them is still there
        words = ["run", "iwae-mnist", "--scale", "smoke", "--arm", "k=1", *where]
        assert main([*words, "--seeds", seeds], PROGRAM) == 0
        made = json.loads((tmp_path / "iwae-mnist.smoke.json").read_text())
        assert len(made["arms"]["k=1"]["runs"]) == 2
        assert made["command"].endswith("--seeds 2")


@pytest.mark.parametrize(
    "changed", [Scale(2, 3, train=300, test=40), Scale(1, 5), Scale(1, 3, test=9)]
)
def test_a_result_of_a_scale_that_has_changed_is_not_taken_for_its_own(tmp_path, changed):
    job = Job(EXPERIMENTS["iwae-mnist"], TINY, "k=1", 0, tmp_path / "k=1-0")
    run_arm(job)
    with pytest.raises(UsageError, match="holds a result of 1 epochs and 3 samples") as refused:
        run_arm(job._replace(scale=changed))
    assert refused.value.code == "E250"
    early = {"stopped": "patience", "epochs": 0.5, "samples": 3, "test_rows": 40}
    assert running.of_scale(early, TINY)


def test_the_verb_lists_shows_and_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    experiment = EXPERIMENTS["iwae-mnist"]
    monkeypatch.setitem(experiment.scales, "smoke", TINY)
    words = ["run", "iwae-mnist", "--scale", "smoke", "--results", str(tmp_path)]
    assert main([*words, "--json"], PROGRAM) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["arms"]["k=1"]["published"]["nll"]["value"] == 86.76
    assert (tmp_path / "iwae-mnist.smoke.json").exists()
    assert (tmp_path / "iwae-mnist.states" / "smoke" / "k=5-0" / "result.json").exists()
    assert main(["list", "--json"], PROGRAM) == 0
    listed = json.loads(capsys.readouterr().out)["experiments"]
    assert {line["experiment"] for line in listed} == set(EXPERIMENTS)
    assert main(["show", "iwae-mnist"], PROGRAM) == 0
    assert "Burda" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "fix"),
    [
        (["lst"], "E230", "python -m reproductions list"),
        (["run"], "E232", "python -m reproductions run iwae-mnist"),
        (["run", "iwae-mist"], "E241", "python -m reproductions run iwae-mnist"),
        (["run", "iwae-mnist", "--scale", "shrt"], "E241", "--scale 'short'"),
        (["run", "iwae-mnist", "--arm", "k=2"], "E241", "--arm 'k="),
        (["run", "iwae-mnist", "--seeds", "0"], "E240", "--seeds 1"),
    ],
)
def test_what_is_refused(words, code, fix, capsys):
    assert main([*words, "--json"], PROGRAM) == 2
    told = json.loads(capsys.readouterr().err)["error"]
    assert told["code"] == code
    assert fix in told["hint"]
