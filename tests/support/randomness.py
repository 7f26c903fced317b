"""Seeds of random tests."""

import os
import random


def random_seed(what: str) -> int:
    """The seed of a random test: SEED of the environment, or a new one; it is printed."""
    seed = int(os.environ.get("SEED") or random.randrange(2**32))
    print(f"{what}: SEED={seed}")
    return seed
