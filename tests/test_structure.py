"""The house: how the package's modules and folders import each other, by their source, lazy imports counted."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "cfcam_gpu"


def modules():
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name, path, known):
    """The modules of the package that a module imports anywhere in it, for types alone, too."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                if (inner if inner in known else origin) in known:
                    yield inner if inner in known else origin
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)


@pytest.fixture(scope="module")
def graph():
    known = modules()
    return {name: set(imports(name, path, known)) - {name} for name, path in known.items()}


def folder(name):
    """The folder of a module; a module of the hall stands for itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else PACKAGE


def test_no_module_imports_itself_by_a_circle(graph):
    # A folder's face imports from its modules, which may import another module of the folder: no circle of theirs.
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_between_two_folders_arrows_run_one_way(graph):
    folders = {}
    for name, targets in graph.items():
        if name != PACKAGE:  # its names are found at first use
            arrows = {folder(target) for target in targets if target != PACKAGE} - {folder(name)}
            folders.setdefault(folder(name), set()).update(arrows)
    try:
        TopologicalSorter(folders).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert not folders["core"]


def test_the_hall_has_six_modules_at_most():
    assert len(list((ROOT / PACKAGE).glob("*.py"))) <= 6


def test_no_file_is_past_400_lines():
    files = [path for part in (PACKAGE, "bench", "tests", "examples", "kernels") for path in (ROOT / part).rglob("*")]
    texts = {path: path.read_text() for path in files if path.suffix in (".py", ".cu", ".cuh", ".h", ".js", ".css")}
    texts = {path: text for path, text in texts.items() if "node_modules" not in path.parts}  # npm's, of an example
    assert {path.name: text.count("\n") for path, text in texts.items() if text.count("\n") > 400} == {}
