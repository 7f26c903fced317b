"""Remote workers: register, claim, append, finish, heartbeat and sign off over HTTP, each for one tenant."""
