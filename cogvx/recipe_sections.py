"""The sections of a recipe, each with what its settings mean and the range they may have.

Nothing here depends on another section or on the base model: those rules are in
`cogvx.recipe_rules` and `cogvx.limits`. A default stands here and nowhere else. A title is what a
form says in place of the field's name and sentence.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from cogvx.section import Section
from cogvx.shapes import VideoSize
from cogvx.variants import DType, ImageScale

DEFAULT_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
_MAX_STEPS = 10_000_000
_MAX_PATH = 4096
_MAX_BUCKETS = 64
_MAX_FRAMES = 1025
_MAX_SIDE = 8192

Checkpointing = Literal["full", "selective", "none"]
BaseWeights = Literal["as_is", "float8", "int8"]
Preset = Literal["fast", "balanced", "small"]


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
    """A diffusers folder, or a hub id such as zai-org/CogVideoX-5b."""
    revision: str | None = Field(
        title="Commit of the hub repository", default=None, min_length=1, max_length=256
    )
    """Commit of the hub repository; a folder has none."""
    dtype: DType = Field(title="Precision of the frozen base")
    """Precision of the frozen base: bfloat16, or float16 for 2b. The adapter is always float32."""
    image_latent_scale: ImageScale | None = Field(
        default=None, title="First frame's latent (image-to-video)"
    )
    """What the first frame's latent is scaled with, which must be what serving does: "multiplied"
    by the VAE's factor, "divided" by it, or "raw". CogVideoX1.5-5B-I2V needs it, since programs
    differ; 5b-I2V is always "multiplied"; a text-to-video model has none."""


class DatasetConfig(Section):
    """The captioned clips."""

    uri: str = Field(
        title="Clips: a folder or s3://bucket/prefix", min_length=1, max_length=_MAX_PATH
    )
    """A folder, file:// or s3://bucket/prefix, in one of the three forms of docs/recipes.md."""
    heldout_share: float = Field(
        title="Share of clips held out, 0 to 1", default=0.1, ge=0.0, lt=1.0
    )
    """Share of the clips kept out of training, chosen by their digest, to measure progress."""
    min_heldout: int = Field(title="Fewest clips held out", default=2, ge=0, le=100_000)
    """At least so many clips are kept out, however few there are. From fewer than two there is no
    spread to tell luck from progress, so nothing could ever be promoted."""
    max_rejected_share: float = Field(
        title="Share of rejected clips that ends the run", default=0.5, ge=0.0, le=1.0
    )
    """The run stops if screening rejects more than this share of the clips."""
    min_motion: float = Field(
        title="Least motion: mean change of luma, 0 to 255", default=0.1, ge=0.0, le=255.0
    )
    """Mean difference of luma (0 to 255) between neighbouring frames that are looked at; a clip
    below it is rejected as static. 0 accepts stills."""
    min_brightness: float = Field(
        title="Least brightness: mean luma, 0 to 255", default=6.0, ge=0.0, le=255.0
    )
    """Mean luma (0 to 255); a clip below it is rejected as black. 0 accepts all."""
    min_kept_share: float = Field(
        title="Least share of the picture kept, 0 to 1", default=0.5, ge=0.0, le=1.0
    )
    """A clip of which the best bucket keeps less of the picture is rejected for its aspect."""


class VideoConfig(Section):
    """The sizes that clips are brought to; the evaluation uses the first one."""

    frames: int = Field(ge=1, le=_MAX_FRAMES)
    """8N + 1 up to 49 for CogVideoX 1.0, 16N + 1 up to 161 for 1.5."""
    height: int = Field(title="Height, pixels", ge=1, le=_MAX_SIDE)
    """In pixels, a multiple of 16 for every published model."""
    width: int = Field(title="Width, pixels", ge=1, le=_MAX_SIDE)
    """In pixels, like the height."""
    fps: int = Field(title="Frames a second", ge=1, le=240)
    """Frames a second after resampling: 8 for CogVideoX 1.0, 16 for 1.5."""
    buckets: tuple[SizeText, ...] = Field(
        title="Further sizes, frames x height x width", default=(), max_length=_MAX_BUCKETS
    )
    """Further sizes as "FxHxW", frames x height x width: each clip goes to the size that keeps
    most of its picture, then to the longest, then to the largest."""
    windows: int = Field(title="Most windows of one long clip", default=1, ge=1, le=10_000)
    """Most windows taken from one long clip, evenly spread; they never overlap."""
    crop: Literal["centre", "random"] = Field(default="centre", title="Where clips are cut")
    """Where a clip is cut that has another aspect than its size."""
    crop_seed: int = Field(title="Seed of random cuts", default=0, ge=0, lt=2**31)
    """Decides the places of random cuts, together with the clip's own bytes."""
    flip: bool = Field(default=False, title="Train on mirrored windows as well")
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
    """How clips are encoded. Every setting is part of the keys of the cache."""

    vae_tiling: Literal["auto", "off", "on"] = Field(default="auto", title="Encode in tiles")
    """Encode in tiles: less memory, other latents (normalisation is per tile). Auto means whole
    frames, until a GPU runs out of memory on a size; from then on that size is tiled."""
    prompt_batch: int = Field(title="Captions encoded at once", default=8, ge=1, le=1024)
    """Captions encoded at once; the last bits of an embedding depend on it."""
    image_draws: int = Field(
        title="Noised first frames of a clip (image-to-video)", default=8, ge=1, le=1024
    )
    """Noised first frames encoded for each clip; image-to-video models only."""


class LoraConfig(Section):
    """The adapter's shape. Trained at strength alpha / rank; its file acts the same at weight 1."""

    rank: int = Field(default=128, ge=1, le=4096)
    """Width of the two matrices, from 64 to the width of the model."""
    alpha: int = Field(default=64, ge=1, le=4096)
    """The rank, or half of it; never 1."""
    targets: tuple[str, ...] = Field(
        title="Layers that get an adapter", default=DEFAULT_TARGETS, min_length=1, max_length=1000
    )
    """Linear layers that get an adapter, by the end of their names."""
    allow_unusual: bool = Field(default=False, title="Accept an unusual rank or alpha")
    """Accept a rank or an alpha that the model's authors advise against; it is recorded."""

    @property
    def scale(self) -> float:
        """What the adapter's output is multiplied with."""
        return self.alpha / self.rank


class TrainConfig(Section):
    """Optimisation. A step is one update of the weights, whatever the number of micro-batches."""

    steps: int = Field(title="Steps: updates of the weights", ge=1, le=_MAX_STEPS)
    """Updates of the weights in all."""
    global_batch: int = Field(
        title="Clips behind one step, over all processes", default=1, ge=1, le=65_536
    )
    """Clips behind one update, over all processes."""
    micro_batch: int = Field(title="Clips in memory at once, per process", default=1, ge=1, le=1024)
    """Clips in memory at once, per process."""
    processes: int = Field(title="Processes (GPUs), over all machines", default=1, ge=1, le=1024)
    """Processes that accelerate starts, over all machines: GPUs, or CPU workers."""
    optimiser: Literal["adamw", "adamw8bit", "prodigy"] = "adamw"
    """AdamW in 8 bits and Prodigy need `pip install .[optimisers]`. Prodigy finds its own
    rate, and multiplies it with `learning_rate`, which then is 1."""
    learning_rate: float = Field(title="Learning rate after the warm-up", default=1e-4, gt=0, le=1)
    """After the warm-up."""
    lr_schedule: Literal["constant", "cosine", "linear"] = Field(
        default="constant", title="Course of the learning rate"
    )
    """What the rate does between the warm-up and the last step."""
    warmup_steps: int = Field(title="Steps of warm-up", default=100, ge=0, le=_MAX_STEPS)
    """Steps over which the rate grows from zero."""
    weight_decay: float = Field(title="Weight decay, decoupled", default=1e-4, ge=0, le=10)
    """Of the optimiser, decoupled from the gradient."""
    max_grad_norm: float = Field(
        title="Norm to which gradients are clipped", default=1.0, gt=0, le=1e6
    )
    """Gradients are clipped to this norm, once for each update."""
    ema_decay: float = Field(
        title="Decay of the weights' running mean, 0 is off", default=0.0, ge=0.0, lt=1.0
    )
    """Export a running mean of the weights, which keeps this share of itself at each update; 0 is
    the weights themselves."""
    timesteps: Literal["uniform", "stratified"] = Field(
        default="uniform", title="How timesteps are drawn"
    )
    """How timesteps are drawn: each for itself, or one from each equal part of the schedule over
    the global batch, which makes the loss of a step less noisy."""
    min_snr_gamma: float = Field(
        title="Min-SNR gamma, 5 is usual, 0 is off", default=0.0, ge=0.0, le=1000
    )
    """Weighs down timesteps with little noise, as Min-SNR does; 5 is usual, 0 off."""
    caption_dropout: float = Field(
        title="Share of samples without caption, 0 to 1", default=0.0, ge=0.0, lt=1.0
    )
    """Share of the samples that are trained without their caption."""
    caption_dropout_with: Literal["empty", "zeros"] = Field(
        default="empty", title="What stands in for a caption"
    )
    """What stands in for it: the empty caption, as diffusers generates with, or zeros, as the
    original code does."""
    image_dropout: float = Field(
        title="Samples without first frame (image-to-video)", default=0.05, ge=0.0, lt=1.0
    )
    """Share of the samples whose first frame is hidden; image-to-video models only."""
    early_stop_patience: int = Field(
        title="Early stop: measurements without a best, 0 never", default=0, ge=0, le=100_000
    )
    """End after so many held-out measurements in a row without a new best, and export the best;
    0 never ends early."""
    max_hours: float | None = Field(title="Longest start, hours", default=None, gt=0, le=10_000)
    """Save a checkpoint and stop after so long, to go on in another start."""
    max_skipped: int = Field(title="Updates in a row that may be skipped", default=5, ge=0, le=1000)
    """Updates in a row that may be skipped because their loss or gradient is not finite; one more,
    and the run has diverged."""
    checkpoint_every: int = Field(
        title="Steps between checkpoints", default=200, ge=1, le=_MAX_STEPS
    )
    """Steps between checkpoints, the most that an interruption costs."""
    keep_checkpoints: int = Field(title="Checkpoints that stay", default=2, ge=1, le=100_000)
    """How many of the newest stay."""
    heldout_every: int = Field(
        title="Steps between held-out losses", default=250, ge=1, le=_MAX_STEPS
    )
    """Steps between measurements on the clips held out."""
    heldout_clips: int = Field(
        title="Clips behind a held-out loss, 0 is all", default=2, ge=0, le=100_000
    )
    """Most clips behind a point of the held-out curve, by which early stopping goes; 0 is all. At
    the start and at the end all of them are measured besides."""
    heldout_strata: int = Field(title="Timesteps behind a held-out loss", default=8, ge=1, le=1000)
    """Timesteps at which the held-out loss is measured, evenly spread."""
    log_every: int = Field(
        title="Steps between points of the curves", default=10, ge=1, le=_MAX_STEPS
    )
    """Steps between points of the curves."""
    seed: int = Field(
        title="Seed of adapter, order, timesteps and noise", default=42, ge=0, lt=2**31
    )
    """Decides the adapter's start, the order of clips, timesteps and noise."""
    fork_of: str | None = Field(
        title="Run whose weights this one begins with", default=None, pattern=r"^[0-9a-f]{64}$"
    )
    """A run whose newest weights this one begins with, in place of a fresh adapter; the optimiser
    and the count of steps begin anew."""

    @property
    def accumulation(self) -> int:
        """Micro-batches that each process adds up before an update."""
        return self.global_batch // (self.micro_batch * self.processes)


class ComputeConfig(Section):
    """How the work is fitted to the machine. What is not set here, the preset decides.

    Only `base_weights` is part of a run's identity: the rest changes speed, memory and the last
    bits, but neither what is drawn nor what is learned.
    """

    preset: Preset = Field(default="balanced", title="Speed against memory")
    """"fast" keeps as much in memory as fits and compiles on a GPU; "balanced" keeps the outputs of
    attention where they fit; "small" recomputes everything and stores the base in 8 bits."""
    checkpointing: Checkpointing | None = Field(
        default=None, title="What the backward pass computes again"
    )
    """What the backward pass computes again: everything, all but attention, or nothing."""
    compile: bool | None = Field(default=None, title="Compile the transformer (GPU)")
    """Compile every block of the transformer; minutes at the start, on a GPU only."""
    base_weights: BaseWeights | None = Field(default=None, title="How the frozen base is stored")
    """How the frozen base is stored: in base.dtype, or in 8 bits, which halves it."""
    attention: Literal["auto", "flash", "efficient", "cudnn", "math"] = Field(
        default="auto", title="Kernel of attention"
    )
    """Which of torch's attention kernels to use."""
    prefetch: int = Field(title="Batches prepared ahead", default=2, ge=0, le=64)
    """Batches prepared ahead, in a thread; 0 prepares each one when it is needed."""

    @property
    def stored_weights(self) -> BaseWeights:
        """How the frozen base is stored, which no probe of the machine decides."""
        return self.base_weights or ("float8" if self.preset == "small" else "as_is")


class SweepConfig(Section):
    """The new adapter at other weights. It shows which is best, and decides nothing."""

    suite: str = Field(title="Path of a suite of the split dev", min_length=1, max_length=_MAX_PATH)
    """Path of a suite of the split dev: a weight is not chosen on the prompts that decide."""
    weights: tuple[float, ...] = Field(
        title="Weights of the adapter, above 0", default=(0.25, 0.5, 0.75, 1.0, 1.25), min_length=1
    )
    """Of the adapter, each above 0: the base is drawn anyway."""


class EvaluationConfig(Section):
    """How the new adapter is judged."""

    suite: str = Field(title="Suite: path of its TOML", min_length=1, max_length=_MAX_PATH)
    """Path of the suite: prompts, seeds, sampler settings, margins."""
    auto_promote: bool = Field(default=False, title="Promote without asking a person")
    """Move the alias `champion` without asking a person when the verdict is PROMOTE."""
    encoders: dict[str, str] = Field(title="Networks of metrics, by kind", default={})
    """Networks that metrics need, by kind (dino, dinov2, clip, siglip2, aesthetic): folders, or
    names on the hub with @ and a commit."""
    sweep: SweepConfig | None = Field(default=None, title="Draw other weights as well")
    """Draw the new adapter at other weights as well."""
