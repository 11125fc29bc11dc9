"""Stream a run, lose the stream, and go on exactly where it broke off.

    OPENAI_API_KEY=… python examples/stream_and_resume.py

OPENAI_BASE_URL names another server that speaks the Responses API, AGENTBG_MODEL another model.
"""

import asyncio
import os

from agentbg import Agent, AgentRunOptions, AgentRunResponseUpdate
from agentbg.providers import OpenAIResponses


async def main() -> None:
    async with Agent(OpenAIResponses(os.environ.get("AGENTBG_MODEL", "gpt-5-mini"))) as agent:
        options = AgentRunOptions(allow_background_responses=True)
        thread = agent.get_new_thread()

        latest_received_update: AgentRunResponseUpdate | None = None

        async with agent.run_streaming("Tell me a joke about a pirate.", thread, options) as updates:
            async for update in updates:
                print(update.text, end="", flush=True)

                latest_received_update = update

                # Simulate an interruption, at the first word of the answer.
                if update.text:
                    break

        # Resume from the interruption point captured by the continuation token.
        assert latest_received_update is not None
        options.continuation_token = latest_received_update.continuation_token
        print("|", end="", flush=True)
        async for update in agent.run_streaming(thread=thread, options=options):
            print(update.text, end="", flush=True)

        print()


if __name__ == "__main__":
    asyncio.run(main())
