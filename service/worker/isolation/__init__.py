"""Agents in processes of their own: `parent` is the worker's side, `forkserver` forks the processes, `child` runs in
one, and `ipc` has what they tell each other.
"""
