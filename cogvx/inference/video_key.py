"""The name of a generated video: everything that decides its bytes, and nothing else."""

from dataclasses import asdict, dataclass

from cogvx.cache.keys import VIDEO_VERSION
from cogvx.digest import digest, sha256_bytes
from cogvx.inference.request import Request, Sampling
from cogvx.recipe_sections import BaseWeights
from cogvx.variants import DType, ImageScale

CRF = 18


@dataclass(frozen=True)
class Engine:
    """What all videos of a session share: the exact base, and how it computes.

    Offloading changes no pixel and is not here. Fusing changes the last bits, since the sum is
    rounded to the base's precision; so does decoding in tiles, and 8 bits change more.
    """

    base_fingerprint: str
    dtype: DType
    tiling: bool = False
    base_weights: BaseWeights = "as_is"
    image_scale: ImageScale | None = None
    fused: bool = False


@dataclass(frozen=True)
class VideoKey:
    """What decides the bytes of one generated mp4; `adapters` are (sha256 of the file, weight).

    `image` is of the first frame's pixels, for image-to-video bases.
    """

    base_fingerprint: str
    adapters: tuple[tuple[str, float], ...]
    prompt: str
    seed: int
    sampling: Sampling
    negative_prompt: str
    frames: int
    height: int
    width: int
    fps: int
    dtype: DType
    tiling: bool
    codec: str = "h264-yuv420p"
    crf: int = CRF
    version: int = VIDEO_VERSION
    image: str | None = None
    image_scale: ImageScale | None = None
    base_weights: BaseWeights = "as_is"
    fused: bool = False

    @property
    def digest(self) -> str:
        """The video's name."""
        plain = {"kind": "video", **asdict(self)}
        return digest({name: part for name, part in plain.items() if not _is_silent(name, part)})

    @property
    def path(self) -> str:
        """The video's place in the store."""
        return path_of(self.digest)


def path_of(digest: str) -> str:
    """The place in the store of the video that has this name."""
    return f"videos/{digest[:2]}/{digest}.mp4"


# Fields that came later: at these values a video has the name that it had before them.
_SILENT = {"image": None, "image_scale": None, "base_weights": "as_is", "fused": False}


def _is_silent(name: str, part: object) -> bool:
    return name in _SILENT and part == _SILENT[name]


def key_of(request: Request, adapters: tuple[tuple[str, float], ...], engine: Engine) -> VideoKey:
    """The name of one video.

    Args:
        request: What is asked for.
        adapters: sha256 of each file and its weight, in any order; those of weight 0 change
            nothing and are left out.
        engine: What generates it.
    """
    size, used = request.size, sorted((sha256, float(w)) for sha256, w in adapters if w)
    image = request.image_hwc
    return VideoKey(
        base_fingerprint=engine.base_fingerprint,
        adapters=tuple(used),
        prompt=request.prompt,
        seed=request.seed,
        sampling=request.sampling,
        negative_prompt=request.negative_prompt,
        frames=size.frames,
        height=size.height,
        width=size.width,
        fps=request.fps,
        dtype=engine.dtype,
        tiling=engine.tiling,
        image=None if image is None else sha256_bytes(image.tobytes()),
        image_scale=engine.image_scale,
        base_weights=engine.base_weights,
        # without an adapter there is nothing to fuse
        fused=engine.fused and bool(used),
    )
