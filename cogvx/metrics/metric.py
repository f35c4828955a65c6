"""What a metric is: a number with a unit, a better side, and a warning of when it misleads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cogvx.mp4 import Mp4  # loads the codecs


Rgb = NDArray[np.uint8]
Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class Metric:
    """A number and how to read it.

    `direction` is +1 where more is better, -1 where less is, 0 where any change is a departure.
    `short` is for captions under videos, `about` for one line of a page, and `lies` names videos
    that the number judges wrongly.
    A metric of kind "video" is a video's and averaged over the seeds of a prompt; "prompt" is of a
    prompt and no single video of it; "heldout" is per clip.
    `measure` takes a decoded video and returns a finite number, always the same for the same
    frames; it is absent where others measure. `encoder` is the kind of network that it needs.
    `version` is raised when the same frames give another number, so that kept ones are not used.
    """

    name: str
    short: str
    unit: str
    direction: Literal[-1, 0, 1]
    kind: Literal["video", "prompt", "heldout"]
    about: str
    lies: str
    measure: "Callable[[Mp4], float] | None" = None
    encoder: str | None = None
    version: int = 1
