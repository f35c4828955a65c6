"""The recipe: the one document a person writes to say which adapter they want.

It is TOML, closed (an unknown key is an error) and frozen. Relative paths mean the working
directory. Rules that need only the recipe live here; rules that need the base model's own
configuration live in `cogvx.check`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cogvx.digest import digest
from cogvx.errors import Problem
from cogvx.section import SchemaVersion, Section, parse_section, problems_of
from cogvx.shapes import VideoSize
from cogvx.variants import DType

MIN_RANK = 64
DEFAULT_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
_MAX_STEPS = 10_000_000
_MAX_PATH = 4096
_MAX_BUCKETS = 64
_MAX_FRAMES = 1025
_MAX_SIDE = 8192


def _size_text(text: str) -> str:
    try:
        size = VideoSize.parse(text)
    except ValueError as error:
        raise PydanticCustomError("video_size", "{error}", {"error": str(error)}) from error
    if size.frames > _MAX_FRAMES or max(size.height, size.width) > _MAX_SIDE:
        most = f"{_MAX_FRAMES}x{_MAX_SIDE}x{_MAX_SIDE}"
        raise PydanticCustomError("large_size", "use at most {most}", {"most": most})
    return text


SizeText = Annotated[str, AfterValidator(_size_text)]
"""A size as it is written in a list of them."""


class BaseConfig(Section):
    """The model that the adapter is trained on."""

    path: str = Field(min_length=1, max_length=_MAX_PATH)
    """A diffusers folder on this machine, or a hub id such as zai-org/CogVideoX-5b."""
    revision: str | None = Field(default=None, min_length=1, max_length=256)
    """Commit of the hub repository; a folder has none."""
    dtype: DType
    """Precision of the frozen base: bfloat16, or float16 for 2b. The adapter is always float32."""


class DatasetConfig(Section):
    """The captioned clips."""

    uri: str = Field(min_length=1, max_length=_MAX_PATH)
    """A folder, file:// or s3://bucket/prefix, in one of the three forms of docs/recipes.md."""
    heldout_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the clips kept out of training, chosen by their digest, to measure progress."""
    min_heldout: int = Field(default=2, ge=0, le=100_000)
    """At least so many clips are kept out, however few there are. From fewer than two there is no
    spread to tell luck from progress, so nothing could ever be promoted."""
    max_rejected_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """The run stops if screening rejects more than this share of the clips."""
    min_motion: float = Field(default=0.1, ge=0.0, le=255.0)
    """Mean difference of luma (0 to 255) between neighbouring frames that are looked at; a clip
    below it is rejected as static. 0 accepts stills."""
    min_brightness: float = Field(default=6.0, ge=0.0, le=255.0)
    """Mean luma (0 to 255); a clip below it is rejected as black. 0 accepts all."""
    min_kept_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """A clip of which the best bucket keeps less of the picture is rejected for its aspect."""


class VideoConfig(Section):
    """The sizes that clips are brought to; the evaluation generates at the first one."""

    frames: int = Field(ge=1, le=_MAX_FRAMES)
    """8N + 1 up to 49 for CogVideoX 1.0, 16N + 1 up to 161 for 1.5."""
    height: int = Field(ge=1, le=_MAX_SIDE)
    """In pixels, a multiple of 16 for every published model."""
    width: int = Field(ge=1, le=_MAX_SIDE)
    """In pixels, like the height."""
    fps: int = Field(ge=1, le=240)
    """Frames a second after resampling: 8 for CogVideoX 1.0, 16 for 1.5."""
    buckets: tuple[SizeText, ...] = Field(default=(), max_length=_MAX_BUCKETS)
    """Further sizes as "FxHxW", frames x height x width: each clip goes to the size that keeps
    most of its picture, then to the longest, then to the largest."""
    windows: int = Field(default=1, ge=1, le=10_000)
    """Most windows taken from one long clip, evenly spread; they never overlap."""
    crop: Literal["centre", "random"] = "centre"
    """Where a clip is cut that has another aspect than its size."""
    crop_seed: int = Field(default=0, ge=0, lt=2**31)
    """Decides the places of random cuts, together with the clip's own bytes."""
    flip: bool = False
    """Train on mirrored windows as well, as records of their own; a clip whose caption speaks of
    left or right is not mirrored, and those held out never are."""

    @property
    def size(self) -> VideoSize:
        """Frames, height and width in pixels of the first bucket."""
        return VideoSize(self.frames, self.height, self.width)

    @property
    def sizes(self) -> tuple[VideoSize, ...]:
        """Every bucket, the first one first."""
        return (self.size, *(VideoSize.parse(bucket) for bucket in self.buckets))

    @property
    def crop_name(self) -> str:
        """How a window says where it was cut: centre, or random-SEED."""
        return f"random-{self.crop_seed}" if self.crop == "random" else self.crop


class CacheConfig(Section):
    """How clips are encoded; every setting is part of the keys of the cache."""

    vae_tiling: Literal["auto", "off", "on"] = "auto"
    """Encode in tiles: less memory, other latents (normalisation is per tile). Auto means whole
    frames, until a GPU runs out of memory on a size; from then on that size is tiled."""
    prompt_batch: int = Field(default=8, ge=1, le=1024)
    """Captions encoded at once; the last bits of an embedding depend on it."""
    image_draws: int = Field(default=8, ge=1, le=1024)
    """Noised first frames encoded for each clip; image-to-video models only."""


class LoraConfig(Section):
    """The adapter's shape. Trained at strength alpha / rank; its file acts the same at weight 1."""

    rank: int = Field(default=128, ge=1, le=4096)
    """Width of the two matrices; at least 64, at most the width of the model."""
    alpha: int = Field(default=64, ge=1, le=4096)
    """The rank, or half of it; never 1."""
    targets: tuple[str, ...] = Field(default=DEFAULT_TARGETS, min_length=1, max_length=1000)
    """Linear layers that get an adapter, by the end of their names."""
    allow_unusual: bool = False
    """Accept a rank or an alpha that the model's authors advise against; it is recorded."""

    @property
    def scale(self) -> float:
        """What the adapter's output is multiplied with."""
        return self.alpha / self.rank


class TrainConfig(Section):
    """Optimisation. A step is one update of the weights, whatever the number of micro-batches."""

    steps: int = Field(ge=1, le=_MAX_STEPS)
    """Updates of the weights in all."""
    global_batch: int = Field(default=1, ge=1, le=65_536)
    """Clips behind one update, over all processes."""
    micro_batch: int = Field(default=1, ge=1, le=1024)
    """Clips in memory at once, per process."""
    processes: int = Field(default=1, ge=1, le=1024)
    """Processes that accelerate starts: GPUs, or CPU workers."""
    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    """Of AdamW, after the warm-up."""
    lr_schedule: Literal["constant", "cosine", "linear"] = "constant"
    """What the rate does between the warm-up and the last step."""
    warmup_steps: int = Field(default=100, ge=0, le=_MAX_STEPS)
    """Steps over which the rate grows from zero."""
    weight_decay: float = Field(default=1e-4, ge=0, le=10)
    """Of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=1e6)
    """Gradients are clipped to this norm, once for each update."""
    caption_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the samples that are trained with the empty caption."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: slower, and what makes 5b fit at all."""
    checkpoint_every: int = Field(default=200, ge=1, le=_MAX_STEPS)
    """Steps between checkpoints, the most that an interruption costs."""
    keep_checkpoints: int = Field(default=2, ge=1, le=100_000)
    """How many of the newest stay."""
    heldout_every: int = Field(default=100, ge=1, le=_MAX_STEPS)
    """Steps between measurements on the clips held out."""
    heldout_strata: int = Field(default=8, ge=1, le=1000)
    """Timesteps at which the held-out loss is measured, evenly spread."""
    log_every: int = Field(default=10, ge=1, le=_MAX_STEPS)
    """Steps between points of the curves."""
    seed: int = Field(default=42, ge=0, lt=2**31)
    """Decides the adapter's start, the order of clips, timesteps and noise."""

    @property
    def accumulation(self) -> int:
        """Micro-batches that each process adds up before an update."""
        return self.global_batch // (self.micro_batch * self.processes)


class EvaluationConfig(Section):
    """How the new adapter is judged."""

    suite: str = Field(min_length=1, max_length=_MAX_PATH)
    """Path of the suite: prompts, seeds, sampler settings, margins."""
    auto_promote: bool = False
    """Move the alias `champion` without asking a person when the verdict is PROMOTE."""


class _Heading(Section):
    """What stands above the sections."""

    schema_version: SchemaVersion = 1
    """Of this form of document; only 1 is known."""
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Name of the registered model: lower-case letters, digits and dashes."""


class Recipe(_Heading):
    """Everything that a person decides about an adapter."""

    base: BaseConfig
    dataset: DatasetConfig
    video: VideoConfig
    lora: LoraConfig = LoraConfig()
    train: TrainConfig
    cache: CacheConfig = CacheConfig()
    evaluation: EvaluationConfig

    @model_validator(mode="after")
    def _obey_the_rules(self) -> Self:
        found = rule_problems({"video": self.video, "lora": self.lora, "train": self.train})
        if found:
            raise ValueError("; ".join(str(problem) for problem in found))
        return self

    def training_digest(self) -> str:
        """Digest of the parts that decide the adapter's weights; the evaluation is not one."""
        parts = ("base", "video", "lora", "train", "cache")
        return digest(self.model_dump(mode="json", include=set(parts)))


def rule_problems(sections: Mapping[str, Section]) -> list[Problem]:
    """Rules inside a section, applied to those sections that could be read."""
    problems: list[Problem] = []
    video, lora, train = sections.get("video"), sections.get("lora"), sections.get("train")
    if isinstance(video, VideoConfig):
        problems += video_problems(video)
    if isinstance(lora, LoraConfig) and not lora.allow_unusual:
        problems += lora_problems(lora)
    if isinstance(train, TrainConfig):
        problems += train_problems(train)
    return problems


def video_problems(video: VideoConfig) -> list[Problem]:
    """Buckets that are there twice."""
    sizes = video.sizes
    return [
        Problem(f"video.buckets[{index}]", bucket, "is there twice", "remove it")
        for index, bucket in enumerate(video.buckets)
        if VideoSize.parse(bucket) in sizes[: index + 1]
    ]


def lora_problems(lora: LoraConfig) -> list[Problem]:
    """Departures from the rules of the model's own repository.

    Source: CogVideo finetune/README: rank at least 64, alpha equal to rank or half of it; an alpha
    of 1 is the trap of checkpoints that were trained with another framework's default.
    """
    problems = []
    if lora.rank < MIN_RANK:
        problems.append(
            Problem(
                "lora.rank",
                lora.rank,
                f"is below {MIN_RANK}, too small for CogVideoX to learn a concept",
                f"use {MIN_RANK} or 128, or set lora.allow_unusual = true",
            )
        )
    if lora.alpha not in (lora.rank, lora.rank // 2):
        wrong = f"is neither lora.rank = {lora.rank} nor half of it"
        if lora.alpha == 1:
            wrong += f": the adapter would act at scale 1/{lora.rank} = {lora.scale:.3f}"
        problems.append(
            Problem(
                "lora.alpha",
                lora.alpha,
                wrong,
                f"use {lora.rank} or {lora.rank // 2}, or set lora.allow_unusual = true",
            )
        )
    return problems


def train_problems(train: TrainConfig) -> list[Problem]:
    """Settings of one training section that contradict each other."""
    problems = []
    at_once = train.micro_batch * train.processes
    if train.global_batch % at_once:
        lower = at_once * (train.global_batch // at_once)
        better = " or ".join(str(batch) for batch in (lower, lower + at_once) if batch)
        unit = "train.micro_batch" if train.processes == 1 else "micro_batch x processes"
        problems.append(
            Problem(
                "train.global_batch",
                train.global_batch,
                f"is not a multiple of {unit} = {at_once}",
                f"use {better}",
            )
        )
    if train.warmup_steps >= train.steps:
        problems.append(
            Problem(
                "train.warmup_steps",
                train.warmup_steps,
                f"never ends within train.steps = {train.steps}",
                f"use at most {train.steps - 1}",
            )
        )
    return problems


def recipe_warnings(recipe: Recipe) -> list[str]:
    """What is allowed, but must be said loudly and recorded with the adapter."""
    if not recipe.lora.allow_unusual:
        return []
    return [f"allowed on request: {problem}" for problem in lora_problems(recipe.lora)]


def parse_recipe(document: Mapping[str, Any]) -> tuple[Recipe | None, list[Problem]]:
    """Turn a document into a recipe, or into all its problems."""
    sections, problems = read_sections(document)
    if problems:
        return None, problems
    plain = {key: value for key, value in document.items() if key not in section_kinds()}
    return Recipe.model_validate({**plain, **sections}), []


def read_sections(document: Mapping[str, Any]) -> tuple[dict[str, Section], list[Problem]]:
    """Read the sections one by one, so that a slip in one hides no problem of another."""
    problems = _top_level_problems(document)
    sections: dict[str, Section] = {}
    for name, kind in section_kinds().items():
        if name in document or not Recipe.model_fields[name].is_required():
            section, found = parse_section(document.get(name, {}), kind, name)
            problems += found
            if section is not None:
                sections[name] = section
    return sections, problems + rule_problems(sections)


def section_kinds() -> dict[str, type[Section]]:
    """The recipe's sections by name."""
    return {
        name: field.annotation
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def _top_level_problems(document: Mapping[str, Any]) -> list[Problem]:
    """Faults outside the sections: the name, the version, unknown or absent sections."""
    fields, kinds = Recipe.model_fields, section_kinds()
    plain = {key: value for key, value in document.items() if key not in kinds}
    problems: list[Problem] = []
    try:
        _Heading.model_validate(plain)
    except ValidationError as error:
        problems += problems_of(error, "", tuple(fields))
    return problems + [
        Problem(f"[{name}]", None, "is missing")
        for name in kinds
        if fields[name].is_required() and name not in document
    ]
