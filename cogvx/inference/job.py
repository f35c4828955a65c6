"""What somebody wants generated: a document that the command line, a flow and a form all write."""

import math

from pydantic import Field

from cogvx.errors import Problem
from cogvx.inference.memory import Offload
from cogvx.inference.model_ref import is_model, is_version
from cogvx.recipe_sections import BaseWeights
from cogvx.section import SchemaVersion, Section
from cogvx.variants import DType, ImageScale, Sampler

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,149}$"


class PromptLine(Section):
    """One line of a prompt file; what it leaves out is as for all the others."""

    prompt: str = Field(min_length=1, max_length=10_000)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    size: str | None = None
    """Frames x height x width, as in 49x480x720."""
    image: str | None = Field(default=None, min_length=1)
    """The first frame, for image-to-video bases: a picture's file, beside the prompt file."""
    negative_prompt: str | None = Field(default=None, max_length=10_000)
    name: str | None = Field(default=None, pattern=_NAME)
    """What its files are called."""


class AskedAdapter(Section):
    """An adapter and its weight; 1 is the strength that it was trained with."""

    ref: str = Field(min_length=1)
    """A file, models:/name@alias, models:/name/version, or models:/name, which is the champion."""
    weight: float = 1.0
    sha256: str | None = None
    """Of the exact file, which lies in the store; nothing else is looked for then."""


class GenerateJob(Section):
    """Videos of some prompts and seeds with one mix of adapters, perhaps at several scales.

    What is None is as the first adapter's card says, or as is usual for the base.
    """

    schema_version: SchemaVersion = 1
    name: str = Field(pattern=_NAME)
    """What the folder of the videos is called."""
    base: str | None = Field(default=None, min_length=1)
    """A folder or a hub id; else what the first adapter was trained on."""
    revision: str | None = Field(default=None, min_length=1)
    """Of a hub id."""
    fingerprint: str | None = None
    """Of the exact base; another one is refused."""
    adapters: tuple[AskedAdapter, ...] = ()
    scales: tuple[float, ...] = ()
    """Every video once for each: all adapters' weights are multiplied by it."""
    prompts: tuple[PromptLine, ...] = ()
    prompts_uri: str | None = Field(default=None, min_length=1)
    """A prompt file: a path, file:// or s3://; for flows, in the place of `prompts`."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Every prompt once for each, unless its line says its own."""
    negative_prompt: str = ""
    image: str | None = Field(default=None, min_length=1)
    """The first frame of every video whose line names none."""
    size: str | None = None
    fps: int | None = Field(default=None, ge=1, le=240)
    steps: int | None = None
    """Must divide 1000."""
    guidance: float | None = None
    """1 is none and costs half."""
    dynamic_guidance: bool = False
    sampler: Sampler | None = None
    dtype: DType | None = None
    base_weights: BaseWeights = "as_is"
    """The transformer's large layers in 8 bits; adapters are fused before."""
    image_scale: ImageScale | None = None
    """What a first frame's latent is scaled with."""
    fuse: bool = False
    """Add adapters to the base's weights: faster, and other last bits."""
    tiling: bool = False
    offload: Offload = "none"
    with_prompt: bool = True
    """Whether the files say their prompt."""


def parse_adapter(text: str) -> AskedAdapter:
    """Read `REF` or `REF:WEIGHT`; what follows the last colon is a weight only if it is a number.

    So `models:/style@champion:0.6` and `models:/style/3:0.6` are what they look like.
    """
    ref, colon, last = text.rpartition(":")
    weight = _number(last) if colon and ref else None
    if weight is None:
        return AskedAdapter(ref=text or " ")
    return AskedAdapter.model_construct(ref=ref, weight=weight)


def adapter_problems(
    adapters: tuple[AskedAdapter, ...], scales: tuple[float, ...]
) -> list[Problem]:
    """What is wrong with references, weights and scales as they are written."""
    problems = [
        Problem(
            f"adapter {asked.ref}",
            None,
            "does not name a version of the registry",
            "use models:/name@alias or models:/name/version",
        )
        for asked in adapters
        if asked.sha256 is None and is_model(asked.ref) and not is_version(asked.ref)
    ]
    problems += [
        Problem(
            f"adapter {asked.ref}", None, f"has weight {asked.weight}", "use a number such as 1.0"
        )
        for asked in adapters
        if not math.isfinite(asked.weight)
    ]
    problems += [
        Problem("scale", scale, "is not finite", "use a number such as 0.5")
        for scale in scales
        if not math.isfinite(scale)
    ]
    doubled = {asked.ref for asked in adapters if [a.ref for a in adapters].count(asked.ref) > 1}
    problems += [
        Problem(
            f"adapter {ref}", None, "is given twice", "give it once, with the sum of the weights"
        )
        for ref in sorted(doubled)
    ]
    if len(set(scales)) < len(scales):
        problems.append(Problem("scale", list(scales), "has a scale twice", "give each once"))
    if scales and not adapters:
        problems.append(
            Problem("scale", list(scales), "scales adapters, and none is given", "give --adapter")
        )
    return problems


def _number(text: str) -> float | None:
    if not text.isascii() or "_" in text:
        return None  # 1_0 is a number to Python, and to nobody else
    try:
        return float(text)
    except ValueError:
        return None
