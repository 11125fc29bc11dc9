"""Functions as tools: one that looks something up, and one that waits until you allow it.

    OPENAI_API_KEY=… python examples/tools_with_approval.py

Kill it at the question, and start it again: the run still waits, in the store. OPENAI_BASE_URL names another server
that speaks the Responses API, AGENTBG_MODEL another model.
"""

import asyncio
import os

from agentbg import Agent, AgentRuntime, Answer, InputRequest, RunContext, RunStatus, tool
from agentbg.providers import OpenAIResponses
from agentbg.stores import SQLiteStore

ORDERS = {17: "an octopus costume, delivered torn", 18: "eight gloves, on their way"}


@tool(idempotent=True)
def look_up(order: int) -> str:
    """What is known of an order."""
    return ORDERS.get(order, "There is no such order.")


@tool(requires_approval=True)
async def refund(order: int, context: RunContext) -> str:
    """Give the customer of an order their money back."""
    # The call's id stays the same however often it is tried: what a payment service wants for an idempotency key.
    return f"Order {order} is paid back, with the reference {context.call_id}."


def decide(request: InputRequest) -> Answer:
    try:
        said = input(f"{request.name} {request.arguments}: allow it? [y/N] ")
    except EOFError:  # nobody is there to ask
        said = "n"

    return request.approve() if said.strip().lower() == "y" else request.reject("Ask the customer for a photo first.")


async def main() -> None:
    provider = OpenAIResponses(os.environ.get("AGENTBG_MODEL", "gpt-5-mini"))
    async with (
        Agent(provider, name="clerk", tools=[look_up, refund]) as agent,
        AgentRuntime(SQLiteStore("orders.db"), agents=[agent]) as runtime,
    ):
        waiting = await runtime.list(status=RunStatus.INPUT_REQUIRED)
        handle = waiting[0] if waiting else await runtime.submit(agent, "Please refund order 17: it came torn.")
        while await handle.wait() is RunStatus.INPUT_REQUIRED:
            await handle.respond(*map(decide, handle.response.requests))

        print((await handle).text)


if __name__ == "__main__":
    asyncio.run(main())
