"""Refuses the answer of a model whose stream ended early. Imported only when a graph runs.

A connection that is closed early but cleanly raises nothing: LangChain makes an answer of what has come, and the graph
would go on with it. The clients of OpenAI and Anthropic tell how each answer ended, if it did.
"""

from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult

PROVIDERS = {"openai", "anthropic"}  # LangChain's names
ENDS = {"finish_reason", "stop_reason", "status"}  # in the metadata of an answer


class WholeAnswers(BaseCallbackHandler):
    raise_error = True  # in the call of the model: its node fails, and no checkpoint has the answer
    run_inline = True

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        for generations in response.generations:
            for generation in generations:
                metadata = getattr(getattr(generation, "message", None), "response_metadata", {})
                if metadata.get("model_provider") in PROVIDERS and ENDS.isdisjoint(metadata):
                    raise ConnectionError("The model's stream ended before its answer did.")
