"""Load the parts of a base model, each frozen, in evaluation mode and in a stated precision.

diffusers loads bfloat16 checkpoints as float32 unless it is told otherwise, so nothing is left to
a default here. Only safetensors are read, and only from this machine.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXTransformer3DModel,
)
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase, T5EncoderModel, T5TokenizerFast
from transformers.utils import logging as transformers_logging

from cogvx.errors import ConfigError, IntegrityError
from cogvx.variants import DType, Sampler

_DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_SCHEDULERS = {"dpm": CogVideoXDPMScheduler, "ddim": CogVideoXDDIMScheduler}


@dataclass(frozen=True)
class TextEncoder:
    """A T5 encoder and the tokenizer that it was trained with."""

    tokenizer: PreTrainedTokenizerBase
    encoder: T5EncoderModel


def torch_dtype(name: DType) -> torch.dtype:
    """The precision that a recipe names."""
    return _DTYPES[name]


def load_vae(
    folder: Path, *, dtype: DType, device: str = "cpu", tiling: bool = False
) -> AutoencoderKLCogVideoX:
    """Load the VAE; `tiling` saves memory and changes the latents, as norms are taken per tile.

    Raises:
        ConfigError: The folder holds no such part.
        IntegrityError: The part's weights are not all there.
    """
    vae = _load(AutoencoderKLCogVideoX, folder, "vae", torch_dtype=_DTYPES[dtype])
    if tiling:
        vae.enable_tiling()
    return vae.to(device)


def load_transformer(
    folder: Path, *, dtype: DType, device: str = "cpu"
) -> CogVideoXTransformer3DModel:
    """Load the transformer.

    Raises:
        ConfigError: The folder holds no such part.
        IntegrityError: The part's weights are not all there.
    """
    kind = CogVideoXTransformer3DModel
    return _load(kind, folder, "transformer", torch_dtype=_DTYPES[dtype]).to(device)


def load_text(folder: Path, *, dtype: DType, device: str = "cpu") -> TextEncoder:
    """Load the T5 encoder and its tokenizer.

    In float16 the encoder keeps its `wo` layers in float32, which it needs to stay finite; they are
    never cast afterwards.

    Raises:
        ConfigError: The folder holds no such part.
        IntegrityError: The part's weights are not all there.

    Source: transformers `T5PreTrainedModel._keep_in_fp32_modules`.
    """
    encoder = _load(T5EncoderModel, folder, "text_encoder", dtype=_DTYPES[dtype])
    try:
        tokenizer = T5TokenizerFast.from_pretrained(folder / "tokenizer", local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / 'tokenizer'} cannot be loaded: {error}") from error
    return TextEncoder(tokenizer=tokenizer, encoder=encoder.to(device))


def load_scheduler(
    folder: Path, sampler: Sampler
) -> CogVideoXDPMScheduler | CogVideoXDDIMScheduler:
    """Load the noise schedule behind a sampler; both samplers share the checkpoint's table.

    Spacing is "trailing" whatever the checkpoint says: an early 2b says otherwise, and then
    sampling would not begin at pure noise.

    Raises:
        ConfigError: The folder holds no scheduler.
    """
    try:
        return _SCHEDULERS[sampler].from_pretrained(
            folder, subfolder="scheduler", local_files_only=True, timestep_spacing="trailing"
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / 'scheduler'} cannot be loaded: {error}") from error


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing a bar for every file that it reads or writes."""
    were_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            transformers_logging.enable_progress_bar()


def _load(kind: Any, folder: Path, part: str, **dtype: torch.dtype) -> Any:
    """Load one model; a weight that the file lacks would otherwise be drawn at random."""
    try:
        with without_progress_bars():
            model, info = kind.from_pretrained(
                folder,
                subfolder=part,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **dtype,
            )
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / part} cannot be loaded: {error}") from error
    except (SafetensorError, RuntimeError) as error:
        raise IntegrityError(f"{folder / part} is damaged: {error}") from error
    lacking = sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))
    if lacking:
        raise IntegrityError(f"{folder / part} lacks {len(lacking)} weights, such as {lacking[0]}")
    return model.eval().requires_grad_(requires_grad=False)
