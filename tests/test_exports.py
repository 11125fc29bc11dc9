"""The public names: importable, documented, and the same for type checkers as at run time."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

MODULES = ["agentbg", "agentbg.providers", "agentbg.stores", "agentbg.testing", "agentbg.testing.server"]


def tree(module: ModuleType) -> ast.Module:
    assert module.__file__ is not None
    return ast.parse(Path(module.__file__).read_text("utf-8"))


def exports(module: ModuleType) -> list[str]:
    """What a type checker takes for exported (PEP 484): each X of `from … import X as X`. Ruff keeps them sorted."""
    return [
        name.name
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ImportFrom)
        for name in node.names
        if name.asname == name.name
    ]


def said_after(value: object, name: str) -> str | None:
    """The text below the assignment `name = value` in the module that makes it: how an alias is documented."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("agentbg") and getattr(module, name, None) is value:
            body = tree(module).body
            for node, after in pairwise(body):
                named = isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]
                if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    return after.value.value

    return None


@pytest.mark.parametrize("name", MODULES)
def test_a_type_checker_sees_the_names_that_there_are(name):
    module = importlib.import_module(name)
    exported = exports(module)
    assert len(set(exported)) == len(exported)
    there = {
        each for each, value in vars(module).items() if not each.startswith("_") and not isinstance(value, ModuleType)
    }
    assert there - {"annotations", "Any", "TYPE_CHECKING"} <= set(exported)
    assert all(getattr(module, each) is not None for each in exported), "also those that are imported when asked for"
    assert list(getattr(module, "__all__", sorted(exported))) == sorted(exported)


@pytest.mark.parametrize("name", MODULES)
def test_every_name_is_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for each in exports(module):
        value = getattr(module, each)
        if inspect.isclass(value) or inspect.isfunction(value):
            made = f"{each}("  # what a dataclass without a docstring says
            assert value.__doc__, each
            assert not value.__doc__.startswith(made), each
        else:
            assert said_after(value, each), each
