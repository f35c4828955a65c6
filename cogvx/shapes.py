"""The only home of frame, pixel, latent and token arithmetic.

Letters used at the end of tensor names, in the order of the axes:

    b  batch      c  channels     f  frames (pixel or latent)
    h  height     w  width        s  sequence of tokens     d  width of an embedding

The VAE speaks `bcfhw`, the transformer `bfchw`.
"""

import math
import re
from dataclasses import dataclass
from typing import Self

_SIZE = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,3})x([1-9]\d{0,3})", re.ASCII)


@dataclass(frozen=True)
class VideoSize:
    """A video in pixels."""

    frames: int
    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The size that `str` wrote.

        Raises:
            ValueError: The text is not frames x height x width.
        """
        found = _SIZE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text} is not frames x height x width, as in 49x480x720")
        return cls(*(int(number) for number in found.groups()))

    @property
    def pixels(self) -> int:
        """Pixels of one frame."""
        return self.height * self.width

    def __str__(self) -> str:
        """Frames x height x width, as people write it."""
        return f"{self.frames}x{self.height}x{self.width}"


@dataclass(frozen=True)
class LatentSize:
    """A video behind the VAE, without channels."""

    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Compression:
    """How much a causal video VAE shrinks: the first frame alone, then groups of `temporal`.

    Both factors come from the checkpoint's config: CogVideoX has 4 and 8.
    """

    temporal: int
    spatial: int

    def latent(self, size: VideoSize) -> LatentSize:
        """Size after encoding.

        Raises:
            ValueError: The video does not divide evenly into latents.
        """
        if size.frames < 1 or (size.frames - 1) % self.temporal:
            raise ValueError(f"{size.frames} frames are not {self.temporal}k + 1")
        if size.height % self.spatial or size.width % self.spatial:
            raise ValueError(f"{size.height}x{size.width} is not a multiple of {self.spatial}")
        return LatentSize(
            frames=(size.frames - 1) // self.temporal + 1,
            height=size.height // self.spatial,
            width=size.width // self.spatial,
        )

    def video(self, latent: LatentSize) -> VideoSize:
        """The one size that `latent` belongs to."""
        return VideoSize(
            frames=(latent.frames - 1) * self.temporal + 1,
            height=latent.height * self.spatial,
            width=latent.width * self.spatial,
        )


def frames_to_prepend(latent_frames: int, patch_t: int | None) -> int:
    """Copies of the first latent to put in front, so that temporal patches come out even.

    CogVideoX 1.5 (`patch_t` 2) was trained with the padding at the front; decoding drops it.

    Source: diffusers `CogVideoXPipeline.__call__` (`additional_frames`).
    """
    return -latent_frames % patch_t if patch_t else 0


def video_tokens(latent: LatentSize, patch: int, patch_t: int | None) -> int:
    """Tokens that the transformer attends to, the text's not counted."""
    frames = latent.frames + frames_to_prepend(latent.frames, patch_t)
    return (frames // (patch_t or 1)) * (latent.height // patch) * (latent.width // patch)


@dataclass(frozen=True)
class CropRule:
    """Where a cut lies in what it leaves over, as shares from 0 (top, left) to 1."""

    down: float = 0.5
    across: float = 0.5


CENTRE = CropRule()


@dataclass(frozen=True)
class Crop:
    """Resize to `height` x `width`, then cut the target out at (`top`, `left`)."""

    height: int
    width: int
    top: int
    left: int


def cover_and_crop(height: int, width: int, target: VideoSize, rule: CropRule = CENTRE) -> Crop:
    """The smallest resize that keeps the aspect and covers the target, cut as the rule says."""
    scale = max(target.height / height, target.width / width)
    resized_height = max(target.height, round(height * scale))
    resized_width = max(target.width, round(width * scale))
    return Crop(
        height=resized_height,
        width=resized_width,
        top=_offset(resized_height - target.height, rule.down),
        left=_offset(resized_width - target.width, rule.across),
    )


def _offset(free: int, share: float) -> int:
    """One of 0 to `free`, each for an equal part of the shares; of two middles the smaller."""
    return max(0, math.ceil(share * (free + 1)) - 1)
