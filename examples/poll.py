"""Start a run in the background and poll it to its end: you hold the token, you drive.

    OPENAI_API_KEY=… python examples/poll.py

OPENAI_BASE_URL names another server that speaks the Responses API, AGENTBG_MODEL another model.
"""

import asyncio
import os

from agentbg import Agent, AgentRunOptions
from agentbg.providers import OpenAIResponses


async def main() -> None:
    async with Agent(OpenAIResponses(os.environ.get("AGENTBG_MODEL", "gpt-5-mini"))) as agent:
        options = AgentRunOptions(allow_background_responses=True)
        thread = agent.get_new_thread()

        # Get the initial response: it may come with or without a continuation token.
        response = await agent.run("What is the weather like in Amsterdam?", thread, options)

        # Continue to poll until the final response is received.
        while response.continuation_token is not None:
            # Wait before polling again.
            await asyncio.sleep(2)

            options.continuation_token = response.continuation_token
            response = await agent.run(thread=thread, options=options)

        # No token means that the run has ended, not that it ended well: a failed run says so, and why.
        print(response.text if response.status == "completed" else f"{response.status}: {response.error}")


if __name__ == "__main__":
    asyncio.run(main())
