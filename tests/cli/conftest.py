"""A service in a thread, a store in a folder, and the command line as people and as processes call it."""

from __future__ import annotations

import functools
import io
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from typer.testing import CliRunner, Result

from agentbg.cli.app import app
from agentbg.testing.server import ResponsesServer

KEY = "sk-a-secret-that-no-file-may-hold"


@pytest.fixture(scope="session", autouse=True)
def few_certificates() -> Iterator[None]:
    """Clients of a loopback server need not read all certificates of the world, each anew."""
    patch = pytest.MonkeyPatch()
    patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
    yield
    patch.undo()


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    """A thread with an event loop."""
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def serve(portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ResponsesServer]]:
    """Start a server; the environment then points to it."""
    with ExitStack() as stack:

        def start(*scripts: Any, **settings: Any) -> ResponsesServer:
            server = ResponsesServer(**({"script": scripts} if scripts else {}), **settings)
            stack.enter_context(portal.wrap_async_context_manager(server))
            monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
            return server

        yield start


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store's file, which is not there yet, nor is its folder."""
    path = tmp_path / "state" / "runs.db"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AGENTBG_STORE", str(path))
    monkeypatch.setenv("AGENTBG_MODEL", "gpt-test")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    return path


@dataclass
class Cli:
    """Calls `agentbg` in this process."""

    def __call__(self, *args: str, input: str | None = None) -> Result:
        result = CliRunner().invoke(app, args, input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception

        return result

    def json(self, *args: str) -> Any:
        """What a command writes with `--json`, which is one line."""
        return json.loads(self(*args, "--json").stdout)

    def lines(self, *args: str) -> list[Any]:
        """What a command writes, line by line."""
        return [json.loads(line) for line in self(*args, "--json").stdout.splitlines()]

    def detach(self, prompt: str = "Hello?", *args: str) -> str:
        """Start a run and leave it; its id."""
        return self("run", prompt, "--detach", *args).stdout.strip()


@pytest.fixture
def cli(store: Path) -> Cli:
    return Cli()


@pytest.fixture
def spawn(store: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Call `agentbg` in a process of its own."""
    processes: list[subprocess.Popen[str]] = []

    def start(*args: str, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "agentbg", *args],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            cwd=Path(__file__).parents[2],
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def terminal(store: Path) -> Callable[..., str]:
    """Call `agentbg` in a process at a terminal of 100 columns; what the terminal gets."""
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")

    def call(*args: str) -> str:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "agentbg", *args]
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
        cwd = Path(__file__).parents[2]
        with (
            os.fdopen(ours, "rb", buffering=0) as screen,
            subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=cwd),
        ):
            os.close(theirs)
            return b"".join(_read(screen)).decode()

    return call


def _read(screen: io.FileIO) -> Iterator[bytes]:
    """All that comes; a closed terminal is an end, or an error on Linux."""
    try:
        while data := screen.read(4096):
            yield data
    except OSError:
        return
