import ast
from pathlib import Path

import pytest

import agentbg.core

MODULES = sorted(Path(agentbg.core.__file__).parent.glob("**/*.py"))
BANNED = {
    "aiosqlite",
    "anyio",
    "asyncio",
    "concurrent",
    "datetime",
    "httpx",
    "httpx2",
    "openai",
    "os",
    "random",
    "secrets",
    "select",
    "socket",
    "sqlite3",
    "subprocess",
    "threading",
    "time",
    "trio",
    "urllib",
    "uuid",
}
ROOMS = {"errors", "core"}


@pytest.fixture(params=MODULES, ids=lambda path: path.stem)
def tree(request: pytest.FixtureRequest) -> ast.Module:
    return ast.parse(request.param.read_text(encoding="utf-8"))


def test_all_modules_are_looked_at() -> None:
    assert {"run", "states", "assembly", "token", "schedule", "queue", "sse"} <= {path.stem for path in MODULES}


def test_no_clock_no_chance_no_network_no_sdk(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]

        assert not BANNED & {name.split(".")[0] for name in names}


def test_nothing_awaits(tree: ast.Module) -> None:
    waiting = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert not [node for node in ast.walk(tree) if isinstance(node, waiting)]


def test_only_errors_are_taken_from_another_room(tree: ast.Module) -> None:
    above = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level > 1]
    assert set(above) <= ROOMS


def test_nothing_prints_or_reads_files(tree: ast.Module) -> None:
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"open", "print", "input", "exec", "eval", "__import__"}
