"""Services that run agents in the background, each behind the contract in `agentbg.providers.base`."""

from typing import TYPE_CHECKING, Any

from .base import Cap as Cap
from .base import Provider as Provider
from .base import Resume as Resume

if TYPE_CHECKING:
    from .openai import OpenAIResponses as OpenAIResponses

__all__ = ["Cap", "OpenAIResponses", "Provider", "Resume"]


def __getattr__(name: str) -> Any:
    """Import a service's SDK when its provider is asked for: openai alone takes a second."""
    if name == "OpenAIResponses":
        from .openai import OpenAIResponses

        return OpenAIResponses

    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
