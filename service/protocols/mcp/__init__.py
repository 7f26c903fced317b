"""The Model Context Protocol under /mcp: agents as tools, threads as resources. Streamable HTTP without a state of its
own: what a client may come back with names the message and the place in its log."""
