"""What a stored run needs so that another process can rebuild its agent. Never a key."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..agent import Agent
from ..core.record import RunRecord

AGENT_NAME = "cli"
OPENAI = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """Which model, at which service, with which instructions. The key comes from the environment, each time anew."""

    model: str
    base_url: str
    instructions: str | None = None

    @classmethod
    def given(cls, model: str, base_url: str | None, instructions: str | None) -> AgentSpec:
        """As the command line and the environment say."""
        return cls(model, base_url or OPENAI, instructions)

    @classmethod
    def of(cls, record: RunRecord) -> AgentSpec:
        """As a stored run says; where it does not, because it is not the command line's, as the environment says."""
        kept = record.metadata
        url = _with_credentials(str(kept["base_url"])) if "base_url" in kept else os.environ.get("OPENAI_BASE_URL")
        return cls(str(kept.get("model", "")), url or OPENAI, kept.get("instructions"))

    @property
    def metadata(self) -> dict[str, Any]:
        """What a store may keep of it."""
        return {**asdict(self), "base_url": _without_credentials(self.base_url)}

    def make_agent(self) -> Agent[str]:
        """The agent. Raises AuthenticationFailed when OPENAI_API_KEY is not set."""
        # The SDK takes a second to import, and `--help` can do without it.
        from ..providers.openai import OpenAIResponses

        provider = OpenAIResponses(self.model, base_url=self.base_url)
        return Agent(provider, name=AGENT_NAME, instructions=self.instructions)


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _with_credentials(url: str) -> str:
    """The environment's URL, when it is this one but for a user and a password in it."""
    given = os.environ.get("OPENAI_BASE_URL", "")
    return given if _without_credentials(given) == url else url
