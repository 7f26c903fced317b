"""AG-UI under /agui: an agent for the clients of front ends, among them CopilotKit.

A run is a message, or a part of one: an agent that asks its client ends the first run, and the next one begins with the
answer.
"""
