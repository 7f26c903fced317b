"""A Swarm that has stopped with a handoff to a person: the person's next message answers the handoff.

AutoGen refuses any other message of a team in this state. Imported only when a team runs.
"""

from collections.abc import Mapping
from typing import Any

from autogen_agentchat.messages import HandoffMessage, TextMessage

SWARM_MANAGER = "SwarmGroupChatManager"  # its key in a team's state; the other keys are the agents


def answer_handoff(state: Any, task: Any) -> Any:
    """The task as the answer to the last handoff of the saved state, if its target is no agent of the team."""
    handoff = _open_handoff(state)
    if handoff is None or isinstance(task, HandoffMessage):
        return task
    text = task.content if isinstance(task, TextMessage) else task
    answer = HandoffMessage(
        source=handoff["target"],
        target=handoff["source"],
        content=text if isinstance(text, str) else f"{handoff['target']} answers.",
    )
    if isinstance(text, str):
        return answer
    return [answer, *(task if isinstance(task, list) else [task])]


def _open_handoff(state: Any) -> Mapping[str, Any] | None:
    agents = state.get("agent_states", {}) if isinstance(state, Mapping) else {}
    if SWARM_MANAGER not in agents:
        return None
    said = reversed(agents[SWARM_MANAGER].get("message_thread", []))
    last = next((message for message in said if message.get("type") == "HandoffMessage"), None)
    return last if last is not None and last["target"] not in agents else None
