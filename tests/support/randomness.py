"""Seeds of random tests, and random data."""

import base64
import os
import random


def random_seed(what: str) -> int:
    """The seed of a random test: SEED of the environment, or a new one; it is printed."""
    seed = int(os.environ.get("SEED") or random.randrange(2**32))
    print(f"{what}: SEED={seed}")
    return seed


def incompressible(length: int) -> str:
    """A text that PostgreSQL stores as it is."""
    return base64.b64encode(os.urandom(length))[:length].decode()
