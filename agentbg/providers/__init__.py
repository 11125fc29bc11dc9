"""Services that run agents in the background, each behind the contract in `agentbg.providers.base`."""

from typing import TYPE_CHECKING, Any

from .base import Cap as Cap
from .base import Provider as Provider
from .base import Resume as Resume
from .base import Webhook as Webhook
from .base import WebhookReader as WebhookReader
from .local import Local as Local
from .local_run import LocalRun as LocalRun

if TYPE_CHECKING:
    from .agent_framework import AgentFrameworkAgent as AgentFrameworkAgent
    from .azure import AzureOpenAIResponses as AzureOpenAIResponses
    from .openai import OpenAIResponses as OpenAIResponses

__all__ = [
    "AgentFrameworkAgent",
    "AzureOpenAIResponses",
    "Cap",
    "Local",
    "LocalRun",
    "OpenAIResponses",
    "Provider",
    "Resume",
    "Webhook",
    "WebhookReader",
]


def __getattr__(name: str) -> Any:
    """Import a service's SDK when its provider is asked for: openai alone takes a second."""
    if name == "OpenAIResponses":
        from .openai import OpenAIResponses

        return OpenAIResponses

    if name == "AzureOpenAIResponses":
        from .azure import AzureOpenAIResponses

        return AzureOpenAIResponses

    if name == "AgentFrameworkAgent":
        from .agent_framework import AgentFrameworkAgent

        return AgentFrameworkAgent

    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
