"""Services that run agents in the background, each behind the contract in `agentbg.providers.base`."""

from .base import Cap as Cap
from .base import Provider as Provider
from .base import Resume as Resume
from .openai import OpenAIResponses as OpenAIResponses
