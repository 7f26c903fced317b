"""What the sockets of all dialects have in common: how a client is admitted, how its access ends, how a socket ends."""
