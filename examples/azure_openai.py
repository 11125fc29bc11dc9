"""A run at Azure OpenAI, streamed: with a key, or with an Entra ID token.

    AZURE_OPENAI_ENDPOINT=https://NAME.openai.azure.com AZURE_OPENAI_API_KEY=… python examples/azure_openai.py

AGENTBG_MODEL names your deployment. Without a key, azure-identity (pip install azure-identity) finds out who you are,
for instance from `az login`. OPENAI_API_VERSION, if it is set, picks an older endpoint than v1.
"""

import asyncio
import os

from azure.identity import DefaultAzureCredential, get_bearer_token_provider

from agentbg import Agent, AgentRuntime
from agentbg.providers import AzureOpenAIResponses

DEPLOYMENT = os.environ.get("AGENTBG_MODEL", "gpt-5-mini")
SCOPE = "https://cognitiveservices.azure.com/.default"


def azure() -> AzureOpenAIResponses:
    version = os.environ.get("OPENAI_API_VERSION")
    if "AZURE_OPENAI_API_KEY" in os.environ:
        return AzureOpenAIResponses(DEPLOYMENT, api_version=version)

    # Asked before each request, in a thread; a token is kept until it is about to expire.
    token_provider = get_bearer_token_provider(DefaultAzureCredential(), SCOPE)
    return AzureOpenAIResponses(DEPLOYMENT, api_version=version, token_provider=token_provider)


async def main() -> None:
    async with Agent(azure(), name="guide") as agent, AgentRuntime() as runtime:
        handle = await runtime.submit(agent, "Tell me about Amsterdam, in two sentences.", stream=True)
        async with handle.stream() as updates:
            async for update in updates:
                print(update.text, end="", flush=True)

        print(f"\n{handle.status} after {handle.elapsed:.1f} s")


if __name__ == "__main__":
    asyncio.run(main())
