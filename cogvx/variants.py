"""The CogVideoX family: what each member was trained with, and which member a folder holds.

A checkpoint is recognised by its configuration, never by its name; what the configuration says
(channels, compression, token limit) is taken from there, and only what it does not say (frame rule,
rate, dtype, sampler) comes from this table. A hub id that is not on this machine yet is described
by the table for planning, and checked against its own configuration once it is loaded.

Source: configurations of zai-org/CogVideoX-*; CogVideo README; arXiv:2408.06072.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cogvx.errors import ConfigError, Problem
from cogvx.shapes import Compression, VideoSize, video_tokens

DType = Literal["float32", "bfloat16", "float16"]
Sampler = Literal["dpm", "ddim"]
ImageScale = Literal["multiplied", "divided", "raw"]
"""What the first frame's latent is scaled with: the VAE's factor f as z * f, as z / f, or not."""

TRAIN_TIMESTEPS = 1000
OFS = 2.0  # the one value of its extra embedding that 1.5 I2V was trained and generates with

# Every linear layer of the transformer, as peft sees the ends of their names.
BLOCK_LINEARS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
    "norm1.linear",
    "norm2.linear",
)
OTHER_LINEARS = (
    "patch_embed.text_proj",
    "time_embedding.linear_1",
    "time_embedding.linear_2",
    "norm_out.linear",
    "proj_out",
)
# ... and every other module, which a target's end must not match: peft would refuse it, or adapt a
# convolution. "" is the block itself.
BLOCK_OTHERS = (
    "",
    "norm1",
    "norm1.silu",
    "norm1.norm",
    "attn1",
    "attn1.norm_q",
    "attn1.norm_k",
    "attn1.to_out",
    "attn1.to_out.1",
    "norm2",
    "norm2.silu",
    "norm2.norm",
    "ff",
    "ff.net",
    "ff.net.0",
    "ff.net.1",
    "ff.net.3",
)
OTHER_OTHERS = (
    "patch_embed",
    "embedding_dropout",
    "time_proj",
    "time_embedding",
    "time_embedding.act",
    "transformer_blocks",
    "norm_final",
    "norm_out",
    "norm_out.silu",
    "norm_out.norm",
)
PATCH_PROJECTION = "patch_embed.proj"  # linear in 1.5, a convolution in 1.0


@dataclass(frozen=True)
class Variant:
    """What a member of the family was trained with and its configuration does not say.

    `frame_step` N means N*k + 1 frames up to `max_frames`; `usual_size` is what it is shown with.
    `fixed_size` forbids any other size: 5b-I2V has learned positions for one size only.
    """

    name: str
    image_to_video: bool
    rotary: bool
    learned_positions: bool
    patch_t: int | None
    has_ofs: bool
    frame_step: int
    max_frames: int
    usual_size: VideoSize
    fps: int
    dtype: DType
    bad_dtype: DType
    sampler: Sampler
    fixed_size: bool

    @property
    def slices_rotary(self) -> bool:
        """1.5 cuts its rotary grid out of the largest one; 1.0 stretches it over the crop."""
        return self.patch_t is not None

    @property
    def image_scales(self) -> tuple[ImageScale, ...]:
        """Which scales of the first frame's latent make sense; the only one goes without saying.

        For 1.5 the original training code, the original inference code and diffusers use three.

        Source: SAT `diffusion_video.py` and `sample_video.py`; diffusers
        `CogVideoXImageToVideoPipeline.prepare_latents` with `invert_scale_latents`.
        """
        if not self.image_to_video:
            return ()
        return ("multiplied", "divided", "raw") if self.slices_rotary else ("multiplied",)


_V1 = {
    "patch_t": None,
    "has_ofs": False,
    "frame_step": 8,
    "max_frames": 49,
    "usual_size": VideoSize(49, 480, 720),
}
_V15 = {
    "rotary": True,
    "learned_positions": False,
    "patch_t": 2,
    "frame_step": 16,
    "max_frames": 161,
    "usual_size": VideoSize(81, 768, 1360),
    "fps": 16,
    "dtype": "bfloat16",
    "bad_dtype": "float16",
    "sampler": "dpm",
    "fixed_size": False,
}


def _variant(name: str, **facts: Any) -> Variant:
    return Variant(name=name, **facts)


COGVIDEOX_2B = _variant(
    "CogVideoX-2b",
    **_V1,
    image_to_video=False,
    rotary=False,
    learned_positions=False,
    fps=8,
    dtype="float16",
    bad_dtype="bfloat16",
    sampler="ddim",
    fixed_size=False,
)
COGVIDEOX_5B = _variant(
    "CogVideoX-5b",
    **_V1,
    image_to_video=False,
    rotary=True,
    learned_positions=False,
    fps=8,
    dtype="bfloat16",
    bad_dtype="float16",
    sampler="dpm",
    fixed_size=False,
)
COGVIDEOX_5B_I2V = _variant(
    "CogVideoX-5b-I2V",
    **_V1,
    image_to_video=True,
    rotary=True,
    learned_positions=True,
    fps=8,
    dtype="bfloat16",
    bad_dtype="float16",
    sampler="dpm",
    fixed_size=True,
)
COGVIDEOX_15_5B = _variant("CogVideoX1.5-5B", **_V15, image_to_video=False, has_ofs=False)
COGVIDEOX_15_5B_I2V = _variant("CogVideoX1.5-5B-I2V", **_V15, image_to_video=True, has_ofs=True)

VARIANTS = (
    COGVIDEOX_2B,
    COGVIDEOX_5B,
    COGVIDEOX_5B_I2V,
    COGVIDEOX_15_5B,
    COGVIDEOX_15_5B_I2V,
)


@dataclass(frozen=True)
class BaseFacts:
    """A base model as its own configuration describes it, and the variant it behaves like.

    `sample_size` is the native size in pixels; `text_tokens` the padded length of a caption;
    `time_dim` the width that timesteps are embedded in.
    """

    variant: Variant
    layers: int
    heads: int
    head_dim: int
    in_channels: int
    out_channels: int
    patch: int
    patch_t: int | None
    text_tokens: int
    text_dim: int
    time_dim: int
    sample_size: VideoSize
    compression: Compression
    latent_channels: int
    scaling_factor: float
    snr_shift_scale: float

    @property
    def width(self) -> int:
        """Width of the transformer; an adapter's rank above it adds nothing."""
        return self.heads * self.head_dim

    def tokens(self, size: VideoSize) -> int:
        """Length of the joint sequence of text and video."""
        return self.text_tokens + video_tokens(
            self.compression.latent(size), self.patch, self.patch_t
        )


def dtype_problems(variant: Variant, dtype: DType, *, where: str) -> list[Problem]:
    """Why a base must not run in this precision; `where` names the setting."""
    if dtype != variant.bad_dtype:
        return []
    wrong = f"overflows or loses precision on {variant.name}, which was trained otherwise"
    return [Problem(where, dtype, wrong, f'use "{variant.dtype}"')]


def default_size(facts: BaseFacts) -> VideoSize:
    """The size to generate when nobody asks for another one.

    The base's own, but no larger than the usual one: the configuration of 1.5 gives the grid that
    its positions are cut out of, 2400x2400 pixels, which no GPU holds.
    """
    native, usual, step = facts.sample_size, facts.variant.usual_size, facts.variant.frame_step
    if facts.variant.fixed_size:
        return native
    frames = min(native.frames, usual.frames)
    return VideoSize(
        frames - (frames - 1) % step,
        min(native.height, usual.height),
        min(native.width, usual.width),
    )


def _published(
    variant: Variant,
    layers: int,
    heads: int,
    *,
    scaling_factor: float = 0.7,
    snr_shift_scale: float = 1.0,
) -> BaseFacts:
    in_channels = 32 if variant.image_to_video else 16
    size = VideoSize(81, 2400, 2400) if variant.slices_rotary else VideoSize(49, 480, 720)
    return BaseFacts(
        variant=variant,
        layers=layers,
        heads=heads,
        head_dim=64,
        in_channels=in_channels,
        out_channels=16,
        patch=2,
        patch_t=variant.patch_t,
        sample_size=size,
        text_tokens=226,
        text_dim=4096,
        time_dim=512,
        compression=Compression(temporal=4, spatial=8),
        latent_channels=16,
        scaling_factor=scaling_factor,
        snr_shift_scale=snr_shift_scale,
    )


PUBLISHED = {
    facts.variant.name: facts
    for facts in (
        _published(COGVIDEOX_2B, 30, 30, scaling_factor=1.15258426, snr_shift_scale=3.0),
        _published(COGVIDEOX_5B, 42, 48),
        _published(COGVIDEOX_5B_I2V, 42, 48),
        _published(COGVIDEOX_15_5B, 42, 48),
        _published(COGVIDEOX_15_5B_I2V, 42, 48),
    )
}
PUBLISHERS = ("zai-org", "THUDM")


def published_facts(hub_id: str) -> BaseFacts | None:
    """What the table says of a hub id, for planning before the checkpoint is here."""
    publisher, _, name = hub_id.partition("/")
    return PUBLISHED.get(name) if publisher in PUBLISHERS else None


def read_facts(folder: Path) -> BaseFacts:
    """Describe the diffusers folder of a CogVideoX model from its configuration files.

    Raises:
        ConfigError: The folder is not a complete CogVideoX, or is of no kind that the table knows.
    """
    transformer = _read_config(folder, "transformer/config.json", "CogVideoXTransformer3DModel")
    vae = _read_config(folder, "vae/config.json", "AutoencoderKLCogVideoX")
    scheduler = _read_config(folder, "scheduler/scheduler_config.json", "CogVideoX")
    if scheduler.get("prediction_type") != "v_prediction":
        raise ConfigError(f"{folder}: the scheduler does not predict v, as every CogVideoX does")
    try:
        return _facts(folder, transformer, vae=vae, scheduler=scheduler)
    except KeyError as error:
        raise ConfigError(f"{folder}: its configuration says nothing of {error}") from error


def _facts(
    folder: Path,
    transformer: Mapping[str, Any],
    *,
    vae: Mapping[str, Any],
    scheduler: Mapping[str, Any],
) -> BaseFacts:
    spatial = 2 ** (len(vae["block_out_channels"]) - 1)
    patch_t = transformer.get("patch_size_t")
    in_channels, out_channels = transformer["in_channels"], transformer["out_channels"]
    traits = {
        "image_to_video": in_channels == 2 * out_channels,
        "rotary": bool(transformer.get("use_rotary_positional_embeddings")),
        "learned_positions": bool(transformer.get("use_learned_positional_embeddings")),
        "patch_t": patch_t,
        "has_ofs": transformer.get("ofs_embed_dim") is not None,
    }
    matches = [
        variant
        for variant in VARIANTS
        if all(getattr(variant, name) == value for name, value in traits.items())
    ]
    if len(matches) != 1:
        raise ConfigError(f"{folder}: no known CogVideoX has {traits}; see cogvx/variants.py")
    return BaseFacts(
        variant=matches[0],
        layers=transformer["num_layers"],
        heads=transformer["num_attention_heads"],
        head_dim=transformer["attention_head_dim"],
        in_channels=in_channels,
        out_channels=out_channels,
        patch=transformer["patch_size"],
        patch_t=patch_t,
        text_tokens=transformer["max_text_seq_length"],
        text_dim=transformer["text_embed_dim"],
        time_dim=transformer["time_embed_dim"],
        sample_size=VideoSize(
            transformer["sample_frames"],
            transformer["sample_height"] * spatial,
            transformer["sample_width"] * spatial,
        ),
        compression=Compression(int(vae["temporal_compression_ratio"]), spatial),
        latent_channels=vae["latent_channels"],
        scaling_factor=vae["scaling_factor"],
        snr_shift_scale=scheduler.get("snr_shift_scale", 3.0),
    )


def _read_config(folder: Path, name: str, class_name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise ConfigError(f"{folder} is not a CogVideoX model: {name} is missing")
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    found = config.get("_class_name") if isinstance(config, dict) else None
    if class_name not in str(found):
        raise ConfigError(f"{path} describes {found}, not a {class_name}")
    return config
