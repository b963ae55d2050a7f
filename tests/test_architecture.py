"""Imports of the package go one way, without circles or names in strings, and its page names what exists."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from plcourse import catalog

MODULES = {
    ".".join(["plcourse", *path.relative_to(catalog.PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(catalog.PACKAGE.rglob("*.py"))
}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in MODULES.items()}
LOADERS = ("import_module", "__import__", "find_spec", "resolve_name", "run_module", "load_module")
MAY_LOAD_BY_NAME = ("__main__.py", "__init__.py")  # and the verb tables of `catalog`, which these two read


def _only_for_types(tree: ast.Module) -> set[ast.AST]:
    """The nodes below `if TYPE_CHECKING:`."""
    blocks = (node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


def _imported(module: str, with_types: bool) -> Iterator[str]:
    """The modules of the package that a module imports, also those imported inside its functions."""
    left_out = set() if with_types else _only_for_types(TREES[module])
    for node in ast.walk(TREES[module]):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            for alias in node.names:
                if (whole := f"{node.module}.{alias.name}") in MODULES:
                    yield whole
                elif node.module in MODULES:
                    yield node.module


@pytest.mark.medium
@pytest.mark.parametrize("with_types", [False, True], ids=["at run time", "with those for types"])
def test_no_imports_go_in_a_circle(with_types: bool) -> None:
    graph = {module: set(_imported(module, with_types)) - {module} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_string_names_a_module_to_import() -> None:
    named = []
    for module, path in MODULES.items():
        if path.name not in MAY_LOAD_BY_NAME:
            calls = [node for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)]
            loading = [call for call in calls if ast.unparse(call.func).rpartition(".")[2] in LOADERS]
            named += [f"{module}: {text}" for call in loading if "plcourse" in (text := ast.unparse(call))]
    assert not named


def test_every_function_that_the_page_names_exists() -> None:
    page = (catalog.PACKAGE.parent / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w.]+):([\w.]+)`", page)
    assert len(named) > 30
    assert not [f"{module}:{name}" for module, name in named if not _defines(f"plcourse.{module}", name)]
    packages = re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
    described = {name for cell in packages for name in re.findall(r"`(\w+)`", cell)}
    assert described == {path.stem for path in catalog.PACKAGE.iterdir() if not path.name.startswith("_")}


def _defines(module: str, name: str) -> bool:
    """Whether a module defines a function or class, or a method as `Class.method`."""
    body: list[ast.stmt] = TREES[module].body if module in TREES else []
    for part in name.split("."):
        kinds = (ast.FunctionDef, ast.ClassDef)
        found = next((node for node in body if isinstance(node, kinds) and node.name == part), None)
        if found is None:
            return False
        body = found.body
    return True
