"""Imports point down, the core is pure, and every file has one subject: read from the source, nothing is imported.

    cli -> public faces -> engine -> {workers, journal, observe, advise} -> transport -> core -> errors

`testing` is shipped for users' tests and may use everything below `cli`. Imports under `if TYPE_CHECKING` bind nothing when
the program runs, and are free. Imports inside functions keep the layers too, but cannot make a cycle.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "manyhands"
SOURCE = Path(__file__).parent.parent / "src" / PACKAGE

FOUNDATION = frozenset({"errors", "crash", "version"})
SIBLINGS = frozenset({"workers", "journal", "observe", "advise"})
LEVELS = {"core": 1, "transport": 2, **dict.fromkeys(SIBLINGS, 3), "engine": 4, "testing": 6, "cli": 6, "__main__": 7}
FOUNDATION_LEVEL = 0
PUBLIC_FACE_LEVEL = 5  # every other module at the top, `__init__` included

IMPURE = {
    *("asyncio", "concurrent", "io", "logging", "multiprocessing", "os", "pathlib", "queue", "random", "sched", "secrets"),
    *("select", "selectors", "shutil", "socket", "sqlite3", "subprocess", "tempfile", "threading", "time", "uuid"),
}
IMPURE_CALLS = frozenset({"open", "print", "input"})
CHILD = frozenset({f"{PACKAGE}.workers.process_child", f"{PACKAGE}.workers.process_tasks"})
CHILD_PARTS = frozenset({"transport", "core"}) | FOUNDATION

MAX_LINES = 450
VAGUE_NAMES = frozenset({"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"})
REASON_REACH = 3  # lines above a function's import within which a comment may give its reason


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, by its full dotted name."""

    target: str
    line: int
    in_function: bool


def read_package(folder: Path = SOURCE) -> dict[str, str]:
    """The text of each module, by its dotted name."""
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(folder).with_suffix("").parts]
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return modules


def imports_of(module: str, modules: Mapping[str, str]) -> list[Import]:
    """What `module` imports when it runs; `from package import name` counts as the submodule where there is one."""
    is_package = any(other.startswith(module + ".") for other in modules)
    found = []
    for node, in_function in _import_nodes(ast.parse(modules[module]), in_function=False):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno, in_function) for alias in node.names]
            continue
        base = node.module or ""
        if node.level:
            parents = module.split(".")[: len(module.split(".")) - node.level + is_package]
            base = ".".join([*parents, *([base] if base else [])])
        for alias in node.names:
            submodule = f"{base}.{alias.name}"
            found.append(Import(submodule if submodule in modules else base, node.lineno, in_function))
    return found


def _import_nodes(node: ast.AST, *, in_function: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, in_function
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for statement in child.orelse:
                yield from _import_nodes(ast.Module([statement], []), in_function=in_function)
        else:
            inside = in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _import_nodes(child, in_function=inside)


def part_of(module: str) -> str:
    """The folder, or the top-level module, that `module` belongs to; empty for the package itself."""
    return [*module.split("."), ""][1]


def level_of(module: str) -> int:
    part = part_of(module)
    return FOUNDATION_LEVEL if part in FOUNDATION else LEVELS.get(part, PUBLIC_FACE_LEVEL)


def upward_imports(modules: Mapping[str, str]) -> list[str]:
    """Every import of our own that does not point down (or stay within its part)."""
    found = []
    for module in modules:
        for imported in imports_of(module, modules):
            if imported.target.split(".")[0] != PACKAGE:
                continue
            ours, theirs = part_of(module), part_of(imported.target)
            is_allowed = ours == theirs or level_of(module) > level_of(imported.target)
            if level_of(module) == level_of(imported.target) in (FOUNDATION_LEVEL, PUBLIC_FACE_LEVEL):
                is_allowed = imported.target != PACKAGE  # a face may use another, but never the package's own front
            if module in CHILD:
                is_allowed = theirs in CHILD_PARTS or imported.target in CHILD
            if not is_allowed:
                found.append(f"{module}:{imported.line} imports {imported.target}")
    return found


def cycle(modules: Mapping[str, str]) -> list[str]:
    """A chain of modules that import each other while they load, or nothing."""
    graph = {
        module: {imported.target for imported in imports_of(module, modules) if not imported.in_function}
        & modules.keys() - {module}
        for module in modules
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def impurities(modules: Mapping[str, str]) -> list[str]:
    """What the core must not have: clocks, threads, randomness, input and output."""
    found = []
    for module, text in modules.items():
        if part_of(module) == "core":
            for imported in imports_of(module, modules):
                if imported.target.split(".")[0] in IMPURE:
                    found.append(f"{module}:{imported.line} imports {imported.target}")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
                    found.append(f"{module}:{node.lineno} calls {node.func.id}()")
    return found


def unexplained_imports(modules: Mapping[str, str]) -> list[str]:
    """Imports inside functions without a comment, on their line or just above, that says why they are there."""
    found = []
    for module, text in modules.items():
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments = {
            token.start[0] for token in tokens if token.type == tokenize.COMMENT and not token.string.startswith("# noqa")
        }
        lines = sorted({imported.line for imported in imports_of(module, modules) if imported.in_function})
        found += [f"{module}:{line}" for line in lines if not comments & set(range(line - REASON_REACH, line + 1))]
    return found


MODULES = read_package()


def test_imports_point_down() -> None:
    assert upward_imports(MODULES) == []


def test_no_import_cycle() -> None:
    assert cycle(MODULES) == []


def test_the_core_is_pure() -> None:
    assert impurities(MODULES) == []


def test_imports_inside_functions_say_why() -> None:
    assert unexplained_imports(MODULES) == []


def test_no_file_is_too_long() -> None:
    assert {name: length for name, text in MODULES.items() if (length := len(text.splitlines())) > MAX_LINES} == {}


def test_every_name_says_something() -> None:
    assert [name for name in MODULES if VAGUE_NAMES & set(name.split("."))] == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("manyhands.core.tasks", "from manyhands.transport import frames"),
        ("manyhands.core.tasks", "from ..transport.frames import Frame"),
        ("manyhands.transport.frames", "import manyhands.workers.threads"),
        ("manyhands.workers.threads", "from manyhands.journal import store"),
        ("manyhands.workers.threads", "def f():\n    from manyhands.engine import engine"),
        ("manyhands.engine.engine", "from manyhands import pools"),
        ("manyhands.engine.engine", "from manyhands import Pool"),
        ("manyhands.engine.engine", "from manyhands.testing import clock"),
        ("manyhands.pools", "from manyhands import map"),
        ("manyhands.pools", "from manyhands.cli import main"),
        ("manyhands.testing.clock", "from manyhands.cli import main"),
        ("manyhands.errors", "from manyhands.core import tasks"),
        ("manyhands.workers.process_child", "from manyhands.workers import protocol"),
    ],
)
def test_an_import_that_points_up_is_seen(module: str, text: str) -> None:
    assert len(upward_imports({**dict.fromkeys(_SKELETON, ""), module: text})) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("manyhands.core.tasks", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from manyhands.engine import engine"),
        (
            "manyhands.workers.threads",
            "from . import protocol\nfrom ..core.tasks import Task\nimport manyhands.errors",
        ),
        ("manyhands.workers.process_child", "from manyhands.transport import frames\nfrom manyhands.core import tasks"),
        ("manyhands.mapping", "from manyhands.pools import Pool\nfrom manyhands.engine.engine import Engine"),
        ("manyhands.crash", "from manyhands.errors import TaskError"),
        ("manyhands.testing.clock", "from manyhands.pools import Pool"),
        ("manyhands.cli.main", "from manyhands.pools import Pool\nfrom manyhands.version import __version__"),
        ("manyhands.__main__", "from manyhands.cli.main import main"),
    ],
)
def test_an_import_that_points_down_is_fine(module: str, text: str) -> None:
    assert upward_imports({**dict.fromkeys(_SKELETON, ""), module: text}) == []


_SKELETON = [
    PACKAGE,
    *(f"{PACKAGE}.{name}" for name in ("errors", "crash", "version", "pools", "mapping", "__main__")),
    *(f"{PACKAGE}.{name}" for name in ("core", "core.tasks", "transport", "transport.frames", "engine", "engine.engine")),
    *(f"{PACKAGE}.{name}" for name in ("workers", "workers.threads", "workers.protocol", "journal", "journal.store")),
    *(f"{PACKAGE}.{name}" for name in ("testing", "testing.clock", "cli", "cli.main")),
]


def test_a_cycle_is_seen_unless_a_function_breaks_it() -> None:
    first = {"manyhands.pools": "from manyhands.mapping import map"}
    assert cycle({**first, "manyhands.mapping": "import manyhands.pools"})
    assert not cycle({**first, "manyhands.mapping": "def f():\n    import manyhands.pools  # start-up"})


@pytest.mark.parametrize(
    "text", ["import time", "from os import path", "def f():\n    import random", "print(1)", "x = open('f')"]
)
def test_an_impure_core_is_seen(text: str) -> None:
    assert len(impurities({"manyhands.core.tasks": text})) == 1


def test_an_unexplained_import_inside_a_function_is_seen() -> None:
    assert unexplained_imports({"manyhands.pools": "def f():\n    import json"}) == ["manyhands.pools:2"]
    assert unexplained_imports({"manyhands.pools": "def f():\n    import json  # start-up"}) == []
    assert unexplained_imports({"manyhands.pools": "def f():\n    # optional package\n    import numpy"}) == []
