"""Agents that another framework or service runs.

    langgraph_agent   a LangGraph graph; needs `pip install 'treadle[langgraph]'`
    autogen_agent     an AutoGen team; needs `pip install 'treadle[autogen]'`
    autogen_core_agent    agents of AutoGen core (RoutedAgent, ClosureAgent); needs the same
    pydantic_ai_agent     a Pydantic AI agent; needs `pip install 'treadle[pydantic-ai]'`
    openai_agents_agent   an agent of OpenAI's Agents SDK; needs `pip install 'treadle[openai-agents]'`
    http_agent        a server that answers over HTTP
    a2a_agent         an agent of another system, over A2A; needs `pip install 'treadle[a2a]'`
    claude_agent      Claude with your tools
    openai_agent      a GPT model, or one behind any API of OpenAI's kind; needs `pip install 'treadle[openai]'`

Importing this module imports no framework. A factory whose framework is not installed raises an ImportError that names
the extra to install.
"""

from service.agents.adapters.a2a.agent import a2a_agent
from service.agents.adapters.autogen.agent import autogen_agent
from service.agents.adapters.autogen.core import autogen_core_agent
from service.agents.adapters.autogen.kit import Kit
from service.agents.adapters.autogen.messages import AgentOutput, UserInput
from service.agents.adapters.http import http_agent
from service.agents.adapters.langgraph.agent import langgraph_agent
from service.agents.adapters.openai_agents.agent import openai_agents_agent
from service.agents.adapters.pydantic_ai.agent import pydantic_ai_agent
from service.agents.claude.agent import ClaudeAgent, claude_agent
from service.agents.openai.agent import OpenAIAgent, openai_agent
from service.agents.rounds.request import ModelInput
from service.agents.tool_events import ToolCall, ToolResult

ClaudeInput = ModelInput  # its name while Claude was the only model

__all__ = [
    "AgentOutput",
    "ClaudeAgent",
    "ClaudeInput",
    "Kit",
    "ModelInput",
    "OpenAIAgent",
    "ToolCall",
    "ToolResult",
    "UserInput",
    "a2a_agent",
    "autogen_agent",
    "autogen_core_agent",
    "claude_agent",
    "http_agent",
    "langgraph_agent",
    "openai_agent",
    "openai_agents_agent",
    "pydantic_ai_agent",
]
