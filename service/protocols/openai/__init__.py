"""OpenAI's Responses, Conversations, Chat Completions and Models APIs under /v1, over the same messages and logs.

A response is a message, or a part of one: an agent that asks its client for the output of a function ends the first
response, and the next one begins with the answer.
"""
