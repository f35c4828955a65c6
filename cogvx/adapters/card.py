"""The card an adapter carries inside its file: what it is, and what it was made from.

It is read without torch, so that a control machine can look at adapters.
"""

import math
from collections.abc import Mapping, Sequence
from importlib import metadata as installed
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cogvx.adapters.container import read_header
from cogvx.errors import IntegrityError
from cogvx.recipe_sections import BaseWeights
from cogvx.section import problems_of
from cogvx.variants import DType, ImageScale

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
CARD_KEY = "cogvx_card"

_SHOWN = 3
_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")


Origin = Literal["trained", "converted", "merged"]


class Parent(BaseModel):
    """A file that an adapter was converted from or merged of, and the weight that it has in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    sha256: str
    weight: float = 1.0
    form: str = "diffusers"


class AdapterCard(BaseModel):
    """What an adapter is and what it was made from.

    `rank` and `alpha` are those of the training; the file's own strength is always 1, because
    alpha / rank is baked into B. `recipe` and `manifest` are digests, `run` is the run's identity;
    what was not trained here has none of the three, but `parents`, and for what was merged `rank`
    and `alpha` are those of the sum.
    `base_fingerprint` is None where only the base's kind was known, not its bytes.
    `base_weights` is how the base was stored while it was trained; it serves over any.
    `image_latent_scale` is what the first frame's latent was scaled with, and must be again; None
    for a text-to-video base. `size` and `fps` are those of the videos that it learned from, `code`
    the version of this project that wrote it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    name: str
    origin: Origin = "trained"
    run: str | None = None
    rank: int = Field(ge=1)
    alpha: int | float = Field(gt=0)
    targets: tuple[str, ...] = Field(min_length=1)
    base_path: str
    base_revision: str | None = None
    base_fingerprint: str | None
    base_dtype: DType
    base_weights: BaseWeights = "as_is"
    image_latent_scale: ImageScale | None = None
    recipe: str | None = None
    manifest: str | None = None
    steps: int | None = Field(default=None, ge=0)
    size: str | None = None
    fps: int | None = Field(default=None, ge=1)
    parents: tuple[Parent, ...] = ()
    code: str | None = None
    warnings: tuple[str, ...] = ()
    libraries: dict[str, str] = Field(default_factory=dict)

    @property
    def scale(self) -> float:
        """What the adapter's output was multiplied with while it was trained."""
        return self.alpha / self.rank


def strength_problem(strength: float) -> str | None:
    """What is wrong with a file that has a card and loads at another strength than 1."""
    if math.isclose(strength, 1.0, rel_tol=1e-6):
        return None
    return (
        f"its card says that alpha is multiplied into B, so that it loads at 1, and its metadata "
        f"says {strength:g}; one of them is wrong, so export it again"
    )


def image_problem(card: AdapterCard, scales: Sequence[ImageScale]) -> str | None:
    """Why an adapter cannot act over a base that sees first frames in these ways, or in none."""
    asked = card.image_latent_scale
    # where an adapter from another program was trained, nobody may have written the scale down
    if asked in scales or (asked is None and (not scales or card.origin != "trained")):
        return None
    saw = "no first frame" if asked is None else f"first frames' latents {asked}"
    has = " or ".join(scales) or "no first frame"
    return f"it was trained with {saw}, and this base has {has}"


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide an adapter's bits, for the card."""
    return {name: installed.version(name) for name in _LIBRARIES}


def own_version() -> str:
    """The version of this project that writes a card, where nobody names a commit."""
    return installed.version("cogvx")


def read_card(path: Path) -> AdapterCard | None:
    """The card inside an adapter file; None when another program wrote the file.

    Raises:
        IntegrityError: The file is damaged, or its card is not one of ours.
    """
    return card_of(read_header(path).metadata, path)


def card_of(metadata: Mapping[str, str], path: Path) -> AdapterCard | None:
    """The card among a file's metadata, as `read_card` gives it.

    Raises:
        IntegrityError: The card is not one of ours.
    """
    text = metadata.get(CARD_KEY)
    if text is None:
        return None
    try:
        return AdapterCard.model_validate_json(text)
    except ValidationError as error:
        found = problems_of(error, "card", tuple(AdapterCard.model_fields))
        shown = "; ".join(map(str, found[:_SHOWN])) + ("; ..." if len(found) > _SHOWN else "")
        raise IntegrityError(f"{path}: the card under {CARD_KEY} is damaged: {shown}") from error
