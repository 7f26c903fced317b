"""The queue socket of older AutoGen applications, /ws/chat/queue: AutoGen's messages as frames, from the log of a
thread."""
