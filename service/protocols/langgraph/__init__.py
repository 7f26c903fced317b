"""The API of a LangGraph server under /langgraph, over the same threads, messages and logs.

An assistant is an agent, a thread is a thread, and a run is a message, or a part of one: a graph that asks a person
(`interrupt`) ends the first run, and the run with the answer (`command: {resume}`) is the rest of the same message.
"""
