"""The names of cached records. A key holds everything that decides the bytes, and nothing else.

Changing how clips are decoded, resized or encoded means raising the matching version here; old
records stay valid under their old names.
"""

from dataclasses import dataclass, is_dataclass
from functools import cached_property
from typing import Any

from cogvx.digest import digest
from cogvx.shapes import VideoSize

LATENTS_VERSION = 1
IMAGE_VERSION = 1
PROMPT_VERSION = 1
VIDEO_VERSION = 1

FRAME_SAMPLER = "nearest-timestamp"
RESIZE = "cover-bilinear-antialias"
# On the pixels, before the VAE; see cogvx/model/encode.py.
IMAGE_NOISE = "lognormal(-3,0.5)"


@dataclass(frozen=True)
class LatentKey:
    """What decides the latents of one window of one clip.

    `source_sha256` is of the file's bytes; `start_frame` counts in the source; `fps` is the rate
    after resampling; `crop` says where the cut lies, whose place follows from the bytes, the start
    and the seed in it; `flip` mirrors; `vae_fingerprint` is of the VAE's configuration and weights.
    """

    source_sha256: str
    start_frame: int
    fps: int
    size: VideoSize
    crop: str
    flip: bool
    vae_fingerprint: str
    dtype: str
    tiling: bool
    slicing: bool = False
    sampler: str = FRAME_SAMPLER
    resize: str = RESIZE
    version: int = LATENTS_VERSION

    @cached_property  # hashing a million keys once takes a minute
    def digest(self) -> str:
        """The record's name."""
        return digest({"kind": "latents", **_plain(self)})

    @property
    def path(self) -> str:
        """The record's place in the store."""
        return record_path("latents", self.digest)


@dataclass(frozen=True)
class ImageKey:
    """What decides one encoding of a window's noised first frame, for image-to-video bases.

    `window` names the window as the key of its latents does; `draw` counts the encodings from 0,
    and with the rest of the key seeds the noise, whose law is `noise`.
    """

    window: LatentKey
    draw: int
    noise: str = IMAGE_NOISE
    version: int = IMAGE_VERSION

    @cached_property
    def digest(self) -> str:
        """The record's name."""
        return digest({"kind": "image", **_plain(self)})

    @property
    def seed(self) -> int:
        """Seeds the noise; torch's CPU generator uses 32 bits of it."""
        return int(self.digest[:8], 16)

    @property
    def path(self) -> str:
        """The record's place in the store."""
        return record_path("images", self.digest)


@dataclass(frozen=True)
class PromptKey:
    """What decides the embedding of one caption; `encoder_fingerprint` covers the tokenizer too.

    `batch` captions are encoded at once, always: the last bits follow from how many, and neither
    from the caption's place among them nor from the others.
    """

    text: str
    encoder_fingerprint: str
    max_length: int
    dtype: str
    batch: int
    version: int = PROMPT_VERSION

    @cached_property
    def digest(self) -> str:
        """The record's name."""
        return digest({"kind": "prompt", **_plain(self)})

    @property
    def path(self) -> str:
        """The record's place in the store."""
        return record_path("prompts", self.digest)


def _plain(key: Any) -> dict[str, object]:
    """As `dataclasses.asdict`, whose deep copies take longer than all the rest of planning."""
    parts = ((name, getattr(key, name)) for name in key.__dataclass_fields__)
    return {name: _plain(part) if is_dataclass(part) else part for name, part in parts}


def record_path(kind: str, name: str) -> str:
    """Where a record lies: fanned out over its first two digits."""
    return f"records/{kind}/{name[:2]}/{name}.safetensors"
