"""The shape of the code: which part may import which, what is public, and that every module says what it is for."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("uftp.protocol", "uftp.streams", "uftp.client", "uftp.transfer", "uftp.cli")
PROTOCOL_MAY_IMPORT = {"cryptography", "zstandard"}
FORBIDDEN = [  # (importer, imported), each with all beneath it
    ("uftp", "uftpd"),
    ("uftpd.session", "uftpd.auth"),
    ("uftpd.auth", "uftpd.session"),
    ("uftpd.auth", "uftpd.data"),
    *((lower, upper) for place, lower in enumerate(LAYERS) for upper in LAYERS[place + 1 :]),
]
EMPTY_WORDS = {"utils", "util", "helpers", "helper", "common", "misc"}


def _modules() -> dict[str, Path]:
    found = {}
    for package in ("uftp", "uftpd"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()
PACKAGES = [name for name, path in MODULES.items() if path.name == "__init__.py"]
SURFACES = [name for name in PACKAGES if name == "uftp" or name in LAYERS]


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(), str(MODULES[module]))


def _imports(module: str) -> Iterator[tuple[str, int]]:
    """Full names of all that `module` imports, at any depth of its code, each with its line."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in MODULES else base), node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.args[0] if node.args else None, ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            argument = node.args[0]
            if name in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                yield str(argument.value), node.lineno


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    keep = len(parts) - node.level + (1 if module in PACKAGES else 0)
    return ".".join([*parts[:keep], *([node.module] if node.module else [])])


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize(("importer", "imported"), FORBIDDEN, ids=lambda name: name)
def test_imports_run_one_way(importer: str, imported: str) -> None:
    assert any(_is_in(name, importer) for name in MODULES), "a rule about nothing"
    wrong = [
        f"{module}:{line} imports {name}"
        for module in MODULES
        if _is_in(module, importer)
        for name, line in _imports(module)
        if _is_in(name, imported)
    ]
    assert wrong == []


def test_the_protocol_stands_on_the_standard_library_and_ciphers_alone() -> None:
    wrong = [
        f"{module}:{line} imports {name}"
        for module in MODULES
        if _is_in(module, "uftp.protocol")
        for name, line in _imports(module)
        if not _is_in(name, "uftp.protocol")
        and name.partition(".")[0] not in PROTOCOL_MAY_IMPORT | sys.stdlib_module_names
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "name", ["socket", "trio", "asyncio", "threading", "logging", "select", "ssl", "subprocess", "pathlib", "os"]
)
def test_the_protocol_does_no_input_or_output(name: str) -> None:
    assert [module for module in MODULES if _is_in(module, "uftp.protocol") and name in dict(_imports(module))] == []


def test_the_errors_of_the_client_stand_alone() -> None:
    assert [name for name, _ in _imports("uftp.errors") if _is_in(name, "uftp") or _is_in(name, "uftpd")] == []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(_tree(module)), f"{module} has no docstring"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_named_for_its_job(module: str) -> None:
    assert not set(module.split(".")) & EMPTY_WORDS


@pytest.mark.parametrize("package", SURFACES)
def test_the_public_surface_is_the_list_of_it(package: str) -> None:
    listed = getattr(importlib.import_module(package), "__all__", None)
    assert listed is not None, f"{package} has no __all__"
    assert len(set(listed)) == len(listed)
    for name in listed:
        assert getattr(sys.modules[package], name, None) is not None, f"{package}.{name} is listed and not there"
        assert not name.startswith("_") or name == "__version__"
    assert sorted(_public_names(package) - set(listed)) == [], "bound here, and not listed"


def _public_names(package: str) -> set[str]:
    """Names that the package's own module binds, by import, definition or assignment."""
    names: set[str] = set()
    for node in _tree(package).body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    # What an own implementation needs (TYPE_CHECKING and the like) is not ours to give.
    foreign = {
        alias.asname or alias.name
        for node in _tree(package).body
        if isinstance(node, ast.ImportFrom) and not node.level and not _is_in(node.module or "", "uftp")
        for alias in node.names
    }
    return {name for name in names - foreign if not name.startswith("_")}


@pytest.mark.parametrize("package", ["uftp", "uftpd"])
def test_types_are_for_others_too(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
