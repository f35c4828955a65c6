"""The names of cached records. A key holds everything that decides the bytes, and nothing else.

Changing how clips are decoded, resized or encoded means raising the matching version here; old
records stay valid under their old names.
"""

from dataclasses import asdict, dataclass

from cogvx.digest import digest
from cogvx.shapes import VideoSize

LATENTS_VERSION = 1
PROMPT_VERSION = 1
VIDEO_VERSION = 1

FRAME_SAMPLER = "nearest-timestamp"
RESIZE = "cover-bilinear-antialias"


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

    @property
    def digest(self) -> str:
        """The record's name."""
        return digest({"kind": "latents", **asdict(self)})

    @property
    def path(self) -> str:
        """The record's place in the store."""
        return record_path("latents", self.digest)


@dataclass(frozen=True)
class PromptKey:
    """What decides the embedding of one caption; `encoder_fingerprint` covers the tokenizer too."""

    text: str
    encoder_fingerprint: str
    max_length: int
    dtype: str
    version: int = PROMPT_VERSION

    @property
    def digest(self) -> str:
        """The record's name."""
        return digest({"kind": "prompt", **asdict(self)})

    @property
    def path(self) -> str:
        """The record's place in the store."""
        return record_path("prompts", self.digest)


def record_path(kind: str, name: str) -> str:
    """Where a record lies: fanned out over its first two digits."""
    return f"records/{kind}/{name[:2]}/{name}.safetensors"
