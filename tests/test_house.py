"""The rooms of the package: names in strings resolve, imports make no cycle, maps are complete."""

import ast
import importlib
import importlib.util
import re
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from lowerbound.cli.verbs import LOWERBOUND
from lowerbound.recipes import RECIPES
from reproductions.command import PROGRAM

ROOT = Path(__file__).parent.parent
PACKAGES = {"lowerbound": ROOT / "src" / "lowerbound", "reproductions": ROOT / "reproductions"}


def named(path, package):
    """Return the dotted name of a file's module."""
    parts = path.relative_to(PACKAGES[package].parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    named(path, package): path
    for package, home in PACKAGES.items()
    for path in sorted(home.rglob("*.py"))
}
FOLDERS = [path for path in MODULES.values() if path.name == "__init__.py"]


@cache
def tree_of(path):
    return ast.parse(path.read_text("utf-8"))


def called(node):
    """Return the name of the function that a call calls, without the module before it."""
    function = node.func
    return getattr(function, "attr", getattr(function, "id", None))


def strings(node):
    """Return the strings that a literal holds; of a dictionary, its values."""
    if isinstance(node, ast.Constant):
        return {node.value} if isinstance(node.value, str) else set()
    if isinstance(node, ast.Dict):
        return {s for value in node.values for s in strings(value)}
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return {s for value in node.elts for s in strings(value)}
    return set()


class Names(ast.NodeVisitor):
    """The modules that one file imports by a string.

    Attributes:
        found: line -> the names that may be imported there.
        unknown: lines with a name of which nothing is known.
    """

    def __init__(self, path):
        self.found, self.unknown, self.open = {}, [], []
        tree = tree_of(path)
        self.known = assigned(tree)
        self.given = given_to_functions(tree)
        self.visit(tree)

    def visit_FunctionDef(self, node):
        self.open.append(node)
        self.generic_visit(node)
        self.open.pop()

    def visit_Call(self, node):
        if called(node) == "import_module" and node.args:
            names = self.values(node.args[0])
            if names:
                self.found.setdefault(node.lineno, set()).update(names)
            else:
                self.unknown.append(node.lineno)
        self.generic_visit(node)

    def values(self, node):
        """Return every string that an expression may be, as far as the file tells."""
        if isinstance(node, ast.JoinedStr):
            parts = [self.values(part) for part in node.values]
            return {"".join(one) for one in product(*parts)}
        if isinstance(node, ast.FormattedValue):
            return self.values(node.value)
        if isinstance(node, ast.Subscript):
            return self.values(node.value)
        if isinstance(node, ast.Name):
            for function in reversed(self.open):
                if node.id in {a.arg for a in function.args.args}:
                    return self.given.get((function.name, node.id), set())
            return self.known.get(node.id, set())
        return strings(node)


def assigned(tree):
    """Return name -> the strings of the literals that a file assigns to it or walks with it."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            pairs = [(node.target, node.value)]
        elif isinstance(node, ast.For | ast.comprehension):
            pairs = [(node.target, node.iter)]
        else:
            continue
        for target, value in pairs:
            if isinstance(target, ast.Name):
                known.setdefault(target.id, set()).update(strings(value))
    for node in ast.walk(tree):  # for name in NAMES
        walks = isinstance(node, ast.For | ast.comprehension) and isinstance(node.iter, ast.Name)
        if walks and isinstance(node.target, ast.Name):
            known.setdefault(node.target.id, set()).update(known.get(node.iter.id, set()))
    return known


def given_to_functions(tree):
    """Return (function, parameter) -> the strings that the file's own calls give."""
    functions = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    given = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) in functions:
            function = functions[called(node)]
            for parameter, value in zip(function.args.args, node.args, strict=False):
                given.setdefault((function.name, parameter.arg), set()).update(strings(value))
    return given


@cache
def by_string():
    """Return module -> the names that it imports by a string."""
    return {name: Names(path) for name, path in MODULES.items()}


# They import what their caller names: the name is a string of the caller, which is looked at too.
PASSED_ON = {"lowerbound.optional", "lowerbound.cli.verbs"}


def there(name):
    """Return whether there is a module of this name, without running it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # nor the package that it would be in
        return False


def test_every_module_that_is_named_by_a_string_is_there():
    assert sum(len(names.found) for names in by_string().values()) > 20
    for module, names in by_string().items():
        for line, wanted in names.found.items():
            for name in wanted:
                assert there(name), (
                    f"{MODULES[module]}:{line} imports {name}, which does not exist"
                )


def test_of_every_string_that_is_imported_the_value_is_known():
    unknown = {module for module, names in by_string().items() if names.unknown}
    assert unknown <= PASSED_ON, f"import_module of a name unknown here: {unknown - PASSED_ON}"


def test_optional_libraries_that_are_named_by_a_string_are_there():
    """`optional.library(name, ...)` and what hands a name on to it."""
    seen = 0
    for path in MODULES.values():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and called(node) == "library" and node.args:
                for name in strings(node.args[0]):
                    assert there(name), f"{path}:{node.lineno} imports {name}"
                    seen += 1
    assert seen > 3


@pytest.mark.parametrize("program", [LOWERBOUND, PROGRAM], ids=lambda p: p.name)
def test_every_command_is_a_function(program):
    for verb in program.verbs.values():
        assert callable(verb.load())


LAZY = [
    name
    for name, path in MODULES.items()
    if re.search(r"^def __getattr__\(", path.read_text("utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize("name", LAZY)
def test_names_that_are_loaded_when_first_used_are_there(name):
    module = importlib.import_module(name)
    for public in module.__all__:
        assert getattr(module, public) is not None
    with pytest.raises(AttributeError):
        _ = module.no_such_name


def imports(name, path):
    """Return the modules of the same package that a file imports, those for types included."""
    package = name.partition(".")[0]
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return {other for other in found if other.partition(".")[0] == package}


def cycles(graph):
    """Return the strongly connected parts of more than one module, and modules that import
    themselves (Tarjan, Depth-first search and linear graph algorithms, 1972).
    """
    index, low, stack, found = {}, {}, [], []

    def visit(name):
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            part = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(part) > 1 or name in graph[name]:
                found.append(part)

    for name in graph:
        if name not in index:
            visit(name)
    return found


def test_imports_make_no_cycle():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}) == [["b", "c"], ["d"]]
    graph = {name: imports(name, path) & set(MODULES) for name, path in MODULES.items()}
    assert sum(map(len, graph.values())) > 300
    assert cycles(graph) == []


def test_no_module_imports_the_package_that_it_is_in():
    found = [name for name, path in MODULES.items() if "lowerbound" in imports(name, path)]
    assert [name for name in found if name.startswith("lowerbound.")] == []


@pytest.mark.parametrize("path", FOLDERS, ids=lambda p: str(p.parent.relative_to(ROOT)))
def test_the_map_of_a_folder_names_each_file_in_it_and_nothing_else(path):
    within = {p.stem for p in path.parent.glob("*.py")} - {"__init__", "__main__"}
    within |= {f"{p.parent.name}/" for p in path.parent.glob("*/__init__.py")}
    lines = re.findall(r"^- ([\w/, ]+):", ast.get_docstring(tree_of(path)), re.MULTILINE)
    told = [name for line in lines for name in line.split(", ")]
    assert sorted(told) == sorted(within)


def test_no_recipe_is_named_outside_its_file():
    """Recipes are asked by their record: no comparison with a name, no table of names."""
    found = []
    for path in sorted((ROOT / "src" / "lowerbound").rglob("*.py")):
        if "recipes" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = {
                part.value
                for part in ast.walk(node)
                if isinstance(part, ast.Constant) and part.value in set(RECIPES)
            }
            compared = isinstance(node, ast.Compare) and "recipe" in ast.unparse(node)
            table = isinstance(node, ast.Dict | ast.Set | ast.Tuple | ast.List) and all(
                isinstance(key, ast.Constant) and key.value in RECIPES
                for key in (node.keys if isinstance(node, ast.Dict) else node.elts)
            )
            if (compared and names) or (table and len(names) > 1):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert not found
