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
SYNTHETIC = {
    "command": "python x",
    "environment": ENVIRONMENT,
    "data": "a table",
    "summary": {
        "real rows": {"f1": 0.66, "accuracy": 0.83, "shape_error": 0.0},
        "lowerbound": {"f1": 0.6131, "accuracy": 0.79, "shape_error": 0.0129},
        "TVAE": {"f1": 0.5984, "accuracy": 0.81, "shape_error": 0.0938},
    },
    "runs": {
        "real rows": [{"seed": 0}],
        "lowerbound": [{"seed": 0, "fit_seconds": 100.0}, {"seed": 1, "fit_seconds": 120.0}],
        "TVAE": [{"seed": 0, "fit_seconds": 420.2}],
    },
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
    assert claimed(root, "Samples: F1") == ["0.613", "real rows 0.660; TVAE 0.598"]
    assert claimed(root, "Samples: error") == ["1.29%", "TVAE 9.38%"]


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
    ours, knn = "| **lowerbound** | 86.68 | 60.00 |", "| KNN | 76.67 | 62.50 |"
    assert page.index(ours) < page.index(knn)
    assert "3 tables, 3 seeds;" in page
    assert "mean is 10.01 above KNN, the best other method; on 2 of 3 tables" in page
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
    assert "| 1_a | 91.0 ± 0.3 | 90.0 |" in page
    assert "| 3_c | 99.0 ± 0.0 | 60.0 ± 3.1 |" in page
    assert "| **mean** | 86.68 | 76.67 |" in page
    assert page.count("\n## ") == 3
    assert "KNN differs by more than 0.05 on 2_b on 2 tables" in page


def test_part_of_the_methods_and_splits_is_enough(tables, root):
    only = {"1_a": {"ours": cell(91.0)}}
    store(root, "anomaly_auroc", anomaly({"clean": only}, seeds=[0]))
    tables.main(["--root", str(root)])
    page = (root / "docs" / "anomaly.md").read_text()
    assert "| **lowerbound** | 91.00 |" in page
    assert "1 table, 1 seed;" in page
    assert "other method" not in page


def test_equal_means_are_called_level(tables):
    assert tables.lead({"ours": 80.001, "KNN": 79.999}).startswith("level with KNN")


def test_samples_say_what_is_better_and_what_is_not(tables, root):
    store(root, "synthetic_tables", SYNTHETIC)
    tables.main(["--root", str(root)])
    page = (root / "docs" / "tables.md").read_text()
    assert "| **lowerbound** | 0.613 | 0.790 | 1.29% | 110 | 2 |" in page
    assert "| TVAE | 0.598 | 0.810 | 9.38% | 420 | 1 |" in page
    assert "| real rows | 0.660 | 0.830 | 0.00% |  | 1 |" in page
    assert "better in F1 and shape error, and not better in accuracy" in page


def test_samples_without_the_peer(tables):
    document = {key: value for key, value in SYNTHETIC.items() if key != "summary"}
    summary = {k: v for k, v in SYNTHETIC["summary"].items() if k != "TVAE"}
    assert "TVAE" not in tables.synthetic({**document, "summary": summary})


@pytest.mark.parametrize("page", ["nothing", "{0}\n{1}\n{0}\n{1}"])
def test_a_page_without_its_marks_is_refused(tables, root, page):
    (root / "README.md").write_text(page.format(tables.BEGIN, tables.END))
    with pytest.raises(SystemExit, match=r"README\.md"):
        tables.main(["--root", str(root)])
