"""What to give up so that generation fits into memory: speed, mostly. Loads no torch."""

from dataclasses import dataclass
from typing import Literal

from cogvx.recipe_sections import BaseWeights

Offload = Literal["none", "model", "group", "sequential"]
"""What waits in main memory: nothing; the parts that are not running; groups of layers, fetched
ahead; every layer until it runs."""


@dataclass(frozen=True)
class Memory:
    """Choices that save memory while generating.

    Attributes:
        offload: Ever less memory and ever more time from "none" to "sequential"; pixels stay.
        vae_slicing: Decode one video of a batch at a time; pixels stay.
        vae_tiling: Decode in overlapping tiles: much less memory, slightly other pixels.
        base_weights: Store the transformer's large layers in 8 bits. Adapters are fused first and
            cannot be changed any more after the first video.
    """

    offload: Offload = "none"
    vae_slicing: bool = False
    vae_tiling: bool = False
    base_weights: BaseWeights = "as_is"


AMPLE = Memory()
"""Nothing is given up."""
