"""Refuses the answer of a model whose stream ended early. Imported only when a graph runs.

A connection that is closed early but cleanly raises nothing: LangChain makes an answer of what has come, and the graph
would go on with it. The clients of OpenAI and Anthropic tell how each answer ended, if it did.
"""

from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult

ENDS = {"finish_reason", "stop_reason", "status"}  # in the metadata of an answer


class WholeAnswers(BaseCallbackHandler):
    raise_error = True  # in the call of the model: its node fails, and no checkpoint has the answer
    run_inline = True

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        for generations in response.generations:
            for generation in generations:
                if _is_cut(getattr(generation, "message", None)):
                    raise ConnectionError("The model's stream ended before its answer did.")


def _is_cut(message: Any) -> bool:
    """Some servers with OpenAI's chat completions tell no reason for the end, and send the usage after the answer.
    Anthropic sends usage before it."""
    metadata = getattr(message, "response_metadata", {})
    if not ENDS.isdisjoint(metadata):
        return False
    provider = metadata.get("model_provider")  # LangChain's name
    return provider == "anthropic" or (provider == "openai" and getattr(message, "usage_metadata", None) is None)
