"""Randomness as a function of where it is used, so that a resumed run needs no saved state.

Every draw has its own generator, seeded from the run's seed, what the draw is for, and the place in
the run: update and position in the global batch. The draw for a sample is therefore the same
however the batch is spread over processes and micro-batches, and no two processes share one.
"""

import hashlib

import torch

_SEED_BYTES = 4  # all that torch's CPU generator uses of a seed


def generator(seed: int | str, purpose: str, *place: int) -> torch.Generator:
    """A fresh CPU generator for one purpose at one place.

    Draws are made on the CPU and then moved, so that every device sees the same numbers. Two places
    share a stream with a chance of 2^-32, which does no harm.
    """
    text = "/".join(["cogvx", str(seed), purpose, *(str(number) for number in place)])
    entropy = hashlib.sha256(text.encode()).digest()[:_SEED_BYTES]
    return torch.Generator("cpu").manual_seed(int.from_bytes(entropy, "big"))
