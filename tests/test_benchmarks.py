"""The benchmarks are not run here, so that what they import is checked: it is renamed at times."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = [*sorted((ROOT / "benchmarks").glob("*.py")), ROOT / "benchmarks/peers/run_ours.py"]


def ours(module):
    return module is not None and module.split(".")[0] in ("lowerbound", "reproductions")


def resolves(module, name):
    try:
        return hasattr(import_module(module), name) or import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_names_that_a_benchmark_takes_from_the_package_exist(script):
    tree = ast.parse(script.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and ours(node.module):
            for alias in node.names:
                assert resolves(node.module, alias.name), f"{node.module}.{alias.name}"
        of_package = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if of_package and node.value.id == "lowerbound":
            assert resolves("lowerbound", node.attr), f"lowerbound.{node.attr}"
