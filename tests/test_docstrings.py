"""Docstrings and comments: errors are told, and names are those of what exists."""

import ast
import importlib
import importlib.util
import inspect
import re
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType

import pytest

from cfcam_gpu.core import cluster_filter
from cfcam_gpu.core.config import Config
from cfcam_gpu.engines import kernels

from .test_structure import ROOT, modules

MODULES = modules()
#: Its docstring tells of the class, and of what making one raises.
MAKING = ("__init__", "__new__", "__post_init__")


def documented(node, context=""):
    """Every class and function of a syntax tree that is not inside a function: its dotted name and its node."""
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{context}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from documented(child, f"{context}{child.name}.")


# Errors


def raised(function):
    """What is raised in the body itself, not in a function inside. A command's end counts for nothing."""
    ahead = list(function.body)
    while ahead:
        node = ahead.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Raise) and node.exc is not None and "typer.Exit" not in ast.unparse(node.exc):
            yield ast.unparse(node.exc)
        ahead.extend(ast.iter_child_nodes(node))


def is_public(name):
    *classes, last = name.split(".")
    return not any(part.startswith("_") for part in classes) and (
        not last.startswith("_") or last in (*MAKING, "__call__")
    )


def silent(path):
    """Public functions and classes that raise and do not say so."""
    found = dict(documented(ast.parse(path.read_text())))
    for name, node in found.items():
        if not isinstance(node, ast.ClassDef) and is_public(name) and list(raised(node)):
            owner, _, last = name.rpartition(".")
            docstring = ast.get_docstring(found[owner] if last in MAKING else node) or ""
            if not re.search(r"^Raises\n------\n\S", docstring, re.MULTILINE):
                yield name


def test_what_raises_says_so():
    found = {module: list(silent(path)) for module, path in MODULES.items()}
    assert {module: names for module, names in found.items() if names} == {}


# Names


def resolved(name, module, owner=""):
    """What a cross-reference in the docstring of `owner`, a class or function of a module, means."""
    name = name.removeprefix("~").removesuffix("()")
    if name.startswith("."):
        package = module.__name__ if hasattr(module, "__path__") else module.__package__
        name = importlib.util.resolve_name(name, package)
    if name.startswith("cfcam_gpu"):
        return absolute(name)
    scopes = [owner.rsplit(".", depth)[0] for depth in range(owner.count(".") + 1)] if owner else []
    for scope in scopes:
        with_scope = member(module, f"{scope}.{name}")
        if with_scope is not None:
            return with_scope
    return member(module, name)


def absolute(name):
    """What a dotted name means that begins with the package's."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("cfcam_gpu"):
                raise
            continue
        return module if count == len(parts) else member(module, ".".join(parts[count:]))
    return None


def member(value, path):
    for part in path.split("."):
        if is_dataclass(value) and part in value.__dataclass_fields__:
            return value.__dataclass_fields__[part]
        value = inspect.getattr_static(value, part, None) if isinstance(value, type) else getattr(value, part, None)
        if value is None:
            return None
    return value


KINDS = {
    "class": lambda value: isinstance(value, type),
    "func": callable,
    "meth": lambda value: callable(getattr(value, "__func__", value)),
    "mod": lambda value: isinstance(value, ModuleType),
    "data": lambda value: value is not None,
}
ROLE = re.compile(r":(\w+):`([^`]+)`")


def docstrings(path):
    """Each docstring of a file by what has it, and for the module all its text: comments refer, too."""
    text = path.read_text()
    tree = ast.parse(text)
    found = {name: ast.get_docstring(node) or "" for name, node in documented(tree)}
    lines = [line for line in text.splitlines() if line.lstrip().startswith("#")]
    return {"": "\n".join([ast.get_docstring(tree) or "", *lines]), **found}


# Ray's, where it is imported.
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
@pytest.mark.parametrize("name", MODULES)
def test_cross_references_resolve(name):
    texts = docstrings(MODULES[name])
    found = [(owner, kind, target) for owner, text in texts.items() for kind, target in ROLE.findall(text)]
    module = importlib.import_module(name) if found else None
    unknown = [
        f"{owner or name}: :{kind}:`{target}`"
        for owner, kind, target in found
        if kind not in KINDS or not KINDS[kind](resolved(target, module, owner))
    ]
    assert unknown == []


FILES = sorted(path for folder in ("cfcam_gpu", "bench", "tests", "examples") for path in (ROOT / folder).rglob("*.py"))


def test_dotted_names_of_the_package_are_those_of_something():
    """In docstrings, comments, errors and patches: wherever text says where in the package a thing is."""
    names = {
        name: path.relative_to(ROOT).as_posix()
        for path in FILES
        for name in re.findall(r"(?<![\w./-])cfcam_gpu(?:\.[A-Za-z_]\w*)+", path.read_text())
    }
    assert len(names) > 50
    # The one is asked for in vain.
    assert [name for name in names if absolute(name) is None] == ["cfcam_gpu.GradCAM"]


# Kernels

SOURCES = sorted(path.name for path in kernels.folder().glob("*.cu*"))
OWNERS = {"cluster_filter": cluster_filter, "Primitives": cluster_filter.Primitives, "Config": Config}


def named(text):
    """Names of functions and primitives that a comment refers to: ``cluster_filter.weigh, .filter_gradients``."""
    for owner, first, more in re.findall(rf"\b({'|'.join(OWNERS)})\.(\w+)((?:, \.\w+)*)", text):
        yield from ((owner, name) for name in [first, *re.findall(r"\w+", more)])


def is_there(owner, name):
    return name in getattr(OWNERS[owner], "__dataclass_fields__", ()) or callable(getattr(OWNERS[owner], name, None))


def comments(name):
    return "\n".join(re.findall(r"//(.*)", (kernels.folder() / name).read_text()))


@pytest.mark.parametrize("name", SOURCES)
def test_a_kernel_refers_to_what_there_is(name):
    text = comments(name)
    assert [(owner, each) for owner, each in named(text) if not is_there(owner, each)] == []
    others = re.findall(r"\bas (\w+) (?:takes|leaves)|\bfrom (\w+_\w+)|\b(\w+)\.cuh?\b", text)
    assert {other for each in others for other in each if other} <= {Path(source).stem for source in SOURCES}


def test_most_kernels_name_their_reference_at_the_head():
    heads = {name: comments(name).splitlines()[0] for name in SOURCES if name.endswith(".cu")}
    without = [name for name, head in heads.items() if not list(named(head)) and "scikit-learn" not in head]
    assert without == ["filter_matrix.cu"]  # its equation stands there


def test_the_table_of_kernels_refers_to_what_there_is():
    text = (kernels.folder() / "README.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.partition("## Numbers")[0].splitlines() if " | " in line][1:]
    assert [row[0] for row in sorted(rows)] == [Path(name).stem for name in SOURCES if name.endswith(".cu")]
    for kernel, _, references, tests in rows:
        for reference in re.findall("`([^`]+)`", references):
            owner, _, name = reference.rpartition(".")
            known = is_there(owner or "cluster_filter", name) if owner in {*OWNERS, ""} else None
            assert known or (owner == "numpy" and name == "median"), (kernel, reference)
        assert (ROOT / "tests" / f"{re.match(r'[a-z_/]+', tests)[0]}.py").is_file(), (kernel, tests)
    for path in re.findall(r"`((?:cfcam_gpu|tests|bench)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
