"""The tables of README.md and docs hold the numbers of the JSONs in benchmarks/results."""

import json
from pathlib import Path

import pytest

import benchmark_modules

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {"lowerbound": "9.8.7", "torch": "2.99", "threads": 2}


@pytest.fixture(scope="module")
def tables():
    """Return the script, which is not part of the package."""
    return benchmark_modules.loaded("readme_tables")


@pytest.fixture
def root(tmp_path, tables):
    """Return a folder of pages with nothing between their marks, and no results."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    for name in tables.PAGES:
        (tmp_path / name).write_text(f"before\n\n{tables.BEGIN}\n{tables.END}\n\nafter\n")
    return tmp_path


def store(root, name, document):
    (root / "benchmarks" / "results" / f"{name}.json").write_text(json.dumps(document))


def cell(auroc, sd=None):
    return {"auroc": auroc, "auroc_sd": sd, "ap": 50.0, "seconds": 1.0, "auroc_by_seed": {}}


def anomaly(cells, seeds=(0, 1, 2)):
    """What anomaly_auroc.py writes: {protocol: {table: {method: cell}}}."""
    protocols = {}
    for protocol, rows in cells.items():
        methods = list(next(iter(rows.values())))
        means = {
            m: {"auroc": sum(row[m]["auroc"] for row in rows.values()) / len(rows)}
            for m in methods
        }
        protocols[protocol] = {"seeds": list(seeds), "tables": rows, "means": means}
    return {"command": "python x", "versions": ENVIRONMENT, "protocols": protocols}


PAPER = {
    "1_a": {"ours": cell(91.04, 0.26), "KNN": cell(90.0)},
    "2_b": {"ours": cell(70.0, 1.0), "KNN": cell(80.0)},
    "3_c": {"ours": cell(99.0, 0.0), "KNN": cell(60.0, 3.14)},
}
CLEAN = {
    "1_a": {"ours": cell(60.0, 0.1), "KNN": cell(62.5)},
    "2_b": {"ours": cell(60.0, 0.1), "KNN": cell(62.5)},
    "3_c": {"ours": cell(60.0, 0.1), "KNN": cell(62.5)},
}


def drawing(model, seed, **measures):
    return {"table": "adult", "model": model, "seed": seed, "utility_measure": "AUC", **measures}


SYNTHETIC = {
    "command": "python x",
    "environment": ENVIRONMENT,
    "data": "halves",
    "published": {
        "table": "adult",
        "c2st": {"TabPC": 0.855},
        "paper": "They, 2026",
        "address": "https://example.org",
    },
    "runs": [
        drawing("lowerbound", 0, c2st_unseen=0.9, utility=0.91, fit_seconds=100.0),
        drawing("lowerbound", 1, c2st_unseen=0.8, utility=0.90, fit_seconds=120.0),
        drawing("TVAE", 0, c2st_unseen=0.1, utility=0.88, fit_seconds=420.2),
        drawing("real rows", 0, c2st_unseen=1.0, utility=0.92),
    ],
}
CARD = {
    "environment": ENVIRONMENT,
    "results": {
        name: {"auroc": a, "average_precision": 0.4, "fit_seconds": 61.5, "score_seconds": 9.0}
        for name, a in (("lowerbound", 0.95678), ("IsolationForest", 0.94))
    },
    "fit": {"rows": 142_157},
}


def test_the_pages_are_those_of_the_results(tables):
    assert tables.main(["--check"]) == 0, "make docs"


def test_a_result_that_is_missing_names_its_command(tables, root):
    assert tables.main(["--root", str(root)]) == 0
    page = (root / "README.md").read_text()
    for name in ("anomaly_auroc", "synthetic_tables", "creditcard", "throughput"):
        assert f"python benchmarks/{name}.py" in page
    assert "python -m reproductions run iwae-mnist" in (root / "docs/reproductions.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("\nafter\n")


def test_a_change_is_noticed_written_once_and_then_in_order(tables, root, capsys):
    store(root, "creditcard", CARD)
    assert tables.main(["--root", str(root), "--check"]) == 1
    assert "README.md is out of date" in capsys.readouterr().out
    assert "142,157" not in (root / "docs" / "tables.md").read_text()
    assert tables.main(["--root", str(root)]) == 0
    assert tables.main(["--root", str(root), "--check"]) == 0
    written = (root / "docs" / "tables.md").read_text()
    assert tables.main(["--root", str(root)]) == 0
    assert (root / "docs" / "tables.md").read_text() == written
    assert "| **lowerbound** | 0.9568 | 0.400 | 62 | 9 |" in written
    assert "142,157 genuine transactions" in written
    assert "2 threads" in written


def claimed(root, start):
    """Return the values of the README's row whose first cell begins with `start`."""
    lines = (root / "README.md").read_text().splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith(f"| [{start}")]
    assert len(rows) == 1, start
    return [cell.strip(" |") for cell in rows[0][1:]]


def test_the_readme_claims_what_came_out_whichever_way(tables, root):
    store(root, "creditcard", CARD)
    store(root, "anomaly_auroc", anomaly({"paper": PAPER, "clean": CLEAN}))
    store(root, "synthetic_tables", SYNTHETIC)
    tables.main(["--root", str(root)])
    assert claimed(root, "Card fraud: AUROC") == ["0.9568", "IsolationForest 0.9400"]
    assert claimed(root, "Anomalies: mean AUROC x 100 of 3 tables, clean") == [
        "60.00",
        "KNN 62.50",
    ]
    assert claimed(root, "Drawn rows: C2ST") == ["0.850", "TVAE 0.100; TabPC (published) 0.855"]
    assert claimed(root, "Drawn rows: AUC") == ["0.905", "real rows 0.920; TVAE 0.880"]


@pytest.mark.parametrize("name", ["segmentation", "throughput", "image_anomalies", "pbmc3k"])
def test_rows_of_the_readme_come_from_their_result_alone(tables, root, name):
    text = (ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8")
    store(root, name, json.loads(text))
    tables.main(["--root", str(root)])
    real = [line for line in (root / "README.md").read_text().splitlines() if "](docs/" in line]
    assert real
    assert set(real) <= set((ROOT / "README.md").read_text("utf-8").splitlines())


def test_anomaly_means_of_both_splits_best_first(tables, root):
    store(root, "anomaly_auroc", anomaly({"paper": PAPER, "clean": CLEAN}))
    tables.main(["--root", str(root)])
    page = (root / "docs" / "anomaly.md").read_text()
    ours = "| **lowerbound** | 86.68 | 1.3 | 60.00 | 2.0 |"
    knn = "| KNN | 76.67 | 1.7 | 62.50 | 1.0 |"
    assert page.index(ours) < page.index(knn)
    assert "3 tables, 3 seeds;" in page
    assert "mean is 10.01 above KNN, the best other method; on 2 of 3 tables" in page
    assert "| KNN | 2 / 1 | +10.01 | 2_b -10.0 |" in page
    assert "| KNN | 0 / 3 | -2.50 | 1_a -2.5 |" in page
    assert "behind a nearest-neighbour score on 1 table: 2_b (-10.0)." in page
    assert "mean is 2.50 below KNN, the best other method; on 0 of 3 tables" in page
    assert "lowerbound 9.8.7, torch 2.99" in page


def test_every_table_is_on_its_own_page(tables, root):
    document = anomaly({"paper": PAPER, "clean": CLEAN})
    check = {"tolerance": 0.05, "passed": False, "differences": {"1_a": 0.01, "2_b": -0.2}}
    document["protocols"]["paper"]["harness_check"] = check
    store(root, "anomaly_auroc", document)
    tables.main(["--root", str(root)])
    page = (root / "docs" / "anomaly.md").read_text()
    assert "| table | **lowerbound** | KNN |" in page
    assert "| 1_a | 91.0 ± 0.3 | 90.0 | KNN (+1.0) |" in page
    assert "| 3_c | 99.0 ± 0.0 | 60.0 ± 3.1 | KNN (+39.0) |" in page
    assert "| **mean** | 86.68 | 76.67 |  |" in page
    assert page.count("\n## ") == 3
    assert "KNN differs by more than 0.05 on 2_b on 2 tables" in page


def test_part_of_the_methods_and_splits_is_enough(tables, root):
    only = {"1_a": {"ours": cell(91.0)}}
    store(root, "anomaly_auroc", anomaly({"clean": only}, seeds=[0]))
    tables.main(["--root", str(root)])
    page = (root / "docs" / "anomaly.md").read_text()
    assert "| **lowerbound** | 91.00 | 1.0 |" in page
    assert "1 table, 1 seed;" in page
    assert "other method" not in page


def test_equal_means_are_called_level(tables):
    assert tables.lead({"ours": 80.001, "KNN": 79.999}).startswith("level with KNN")


def test_drawn_rows_are_means_over_seeds(tables, root):
    store(root, "synthetic_tables", SYNTHETIC)
    tables.main(["--root", str(root)])
    page = (root / "docs" / "tables.md").read_text()
    assert "| adult | **lowerbound** |  | 0.850 |  |  | 0.905 AUC | 110 | 2 |" in page
    assert "| adult | TVAE |  | 0.100 |  |  | 0.880 AUC | 420 | 1 |" in page
    assert "| adult | real rows |  | 1.000 |  |  | 0.920 AUC |  | 1 |" in page
    assert "Published C2ST of adult: TabPC 0.855 ([They, 2026](https://example.org))." in page


@pytest.mark.parametrize("page", ["nothing", "{0}\n{1}\n{0}\n{1}"])
def test_a_page_without_its_marks_is_refused(tables, root, page):
    (root / "README.md").write_text(page.format(tables.BEGIN, tables.END))
    with pytest.raises(SystemExit, match=r"README\.md"):
        tables.main(["--root", str(root)])
