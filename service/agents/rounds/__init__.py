"""What agents that ask a model share, whichever provider has it: rounds of model calls and tool calls, the thread's
history as the conversation, typed functions as tools, and the meaning of errors."""
