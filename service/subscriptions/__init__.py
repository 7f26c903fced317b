"""Subscriptions: durable positions in topics, each with an agent that handles the records."""
