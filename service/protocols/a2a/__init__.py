"""A2A 1.0 under /a2a: agents for other agents, over JSON-RPC and REST.

A task is a message, a context is a thread. /a2a is the default agent, or the one that a message names; /a2a/{agent} is
one agent.
"""
