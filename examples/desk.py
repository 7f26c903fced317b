"""An agent that asks Claude and gives it your own tools.

Set ANTHROPIC_API_KEY. Then run these commands in this repository's folder; the first one starts Treadle with the agent:

    AGENTS=examples.desk make up
    .venv/bin/treadle send "Where is my order 17? If it is late, I want 5 dollars back." --agent desk --follow

examples/agents.yaml has two more agents, in a few lines of YAML:

    AGENT_TEMPLATES=examples/agents.yaml make up
    .venv/bin/treadle send "Where is my order 17?" --agent porter --follow
"""

from typing import Annotated

from msgspec import Meta, Struct

from treadle import Context
from treadle.adapters import claude_agent


class Order(Struct):
    number: int
    goods: str
    days_late: int


ORDERS = {17: Order(17, "a red bicycle", 3), 18: Order(18, "a bell", 0)}


def find_order(number: Annotated[int, Meta(ge=1, description="As printed on the bill.")]) -> Order:
    """Finds an order by its number."""
    if number not in ORDERS:
        raise LookupError(f"There is no order {number}.")  # the model receives this text
    return ORDERS[number]


async def refund(context: Context, number: int, cents: Annotated[int, Meta(ge=1, le=1000)]) -> str:
    """Refunds a customer for a late order."""
    # If the worker dies in this call, the next attempt repeats it: the bank recognises the repeat by this key.
    key = f"{context.message_id}/{number}"
    context.log.info("refund %s: %d cents", key, cents)
    return f"{cents} cents are on their way."


desk = claude_agent(
    "desk",
    system="You answer the customers of a bicycle shop. Look orders up before you speak of them.",
    tools=[find_order, refund],
    timeout=300,
)
