"""What a generated mp4 says of itself: all that made it, readable by ffprobe and by us.

Each fact is a tag of the file under its own name, `cogvx_seed=1`. The pictures are those of the
store, copied: the store's own objects say nothing, as captions may be private.
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cogvx.digest import canonical_json
from cogvx.errors import DataError, IntegrityError
from cogvx.inference.request import Request
from cogvx.inference.video_key import VideoKey
from cogvx.mp4 import label_mp4, read_label
from cogvx.recipe_sections import BaseWeights
from cogvx.variants import DType, ImageScale, Sampler

_TAG = "cogvx_"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UsedAdapter(_Document):
    """An adapter that acted: what the person called it, its bytes, and its weight."""

    name: str
    sha256: str
    weight: float


class Base(_Document):
    """The base model that was asked for, and the bytes that this meant."""

    path: str
    revision: str | None = None
    fingerprint: str


class Provenance(_Document):
    """What made a video. `video` is the digest of its key: equal for equal pictures.

    `code` is this project's version. `prompt` and `negative_prompt` are None where they were left
    out for privacy; `image` is the sha256 of the first frame's pixels.
    """

    schema_version: Literal[1] = 1
    code: str
    video: str
    base: Base
    adapters: tuple[UsedAdapter, ...] = ()
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int
    size: str
    fps: int
    steps: int
    guidance: float
    dynamic_guidance: bool
    sampler: Sampler
    dtype: DType
    base_weights: BaseWeights = "as_is"
    tiling: bool = False
    fused: bool = False
    image: str | None = None
    image_scale: ImageScale | None = None

    def rows(self) -> list[tuple[str, str]]:
        """Facts for a person, one a line, of names with at most nine letters."""
        dynamic = ", dynamic" if self.dynamic_guidance else ""
        how = [
            self.dtype,
            *([] if self.base_weights == "as_is" else [f"base in {self.base_weights}"]),
            *(["adapters fused"] if self.fused else []),
            *(["decoded in tiles"] if self.tiling else []),
        ]
        revision = f" at {self.base.revision}" if self.base.revision else ""
        scale = f", latent {self.image_scale}" if self.image_scale else ""
        texts = [("prompt", self.prompt), ("negative", self.negative_prompt)]
        return [
            *((name, text) for name, text in texts if text),
            ("seed", str(self.seed)),
            ("size", f"{self.size} at {self.fps} frames a second"),
            (
                "sampling",
                f"{self.sampler}, {self.steps} steps, guidance {self.guidance:g}{dynamic}",
            ),
            *([("image", f"{self.image}{scale}")] if self.image else []),
            ("base", f"{self.base.path}{revision}, fingerprint {self.base.fingerprint}"),
            *(
                ("adapter", f"{used.name} at {used.weight:g}, sha256 {used.sha256}")
                for used in self.adapters
            ),
            ("in", ", ".join(how)),
            ("video", self.video),
            ("cogvx", self.code),
        ]


def describe_video(
    request: Request,
    key: VideoKey,
    *,
    base: Base,
    adapters: tuple[UsedAdapter, ...],
    code: str,
    with_prompt: bool = True,
) -> Provenance:
    """What is written into a video; `code` is this project's version."""
    sampling = request.sampling
    return Provenance(
        code=code,
        video=key.digest,
        base=base,
        adapters=tuple(used for used in adapters if used.weight),
        prompt=request.prompt if with_prompt else None,
        negative_prompt=request.negative_prompt if with_prompt else None,
        seed=request.seed,
        size=str(request.size),
        fps=request.fps,
        steps=sampling.steps,
        guidance=sampling.guidance,
        dynamic_guidance=sampling.dynamic_guidance,
        sampler=sampling.sampler,
        dtype=key.dtype,
        base_weights=key.base_weights,
        tiling=key.tiling,
        fused=key.fused,
        image=key.image,
        image_scale=key.image_scale,
    )


def write_provenance(source: Path, target: Path, provenance: Provenance) -> None:
    """Copy a video of the store to where a person wants it, saying what made it.

    Raises:
        DataError: The source is no video.
    """
    label_mp4(source, target, _tags(provenance))


def read_provenance(path: Path) -> Provenance | None:
    """What made a video; None if it does not say, as another program wrote it.

    Raises:
        DataError: The file is no video.
        IntegrityError: It says something that this version cannot read.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such video")
    found = {
        name.removeprefix(_TAG): text
        for name, text in read_label(path).items()
        if name.startswith(_TAG)
    }
    if "schema_version" not in found:
        return None
    try:
        plain = {name: json.loads(text) for name, text in found.items()}
        return Provenance.model_validate(plain)
    except (ValueError, RecursionError) as error:  # pydantic's error is a ValueError
        raise IntegrityError(
            f"{path} does not say what made it in a way that this version can read"
        ) from error


def read_tags(path: Path) -> list[tuple[str, str]]:
    """All that a video says under our names, whichever version or served model wrote it.

    Raises:
        DataError: The file is no video.
    """
    found = read_label(path).items()
    return [(name.removeprefix(_TAG), text) for name, text in found if name.startswith(_TAG)]


def _tags(provenance: Provenance) -> dict[str, str]:
    """As JSON each, so that an empty text, a line break and a number come back as they were."""
    plain = provenance.model_dump(mode="json", exclude_none=True)
    return {f"{_TAG}{name}": canonical_json(value).decode() for name, value in plain.items()}
