"""Frames to features by an image network in a local folder; optional, and pinned by its content."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoConfig,
    CLIPVisionModelWithProjection,
    Dinov2Model,
    SiglipVisionModel,
    ViTModel,
)
from transformers.utils import logging as transformers_logging

from cogvx.digest import digest
from cogvx.errors import ConfigError, Problem
from cogvx.metrics.encoder_files import NETWORK_FILES, missing_files
from cogvx.metrics.metric import Rgb
from cogvx.metrics.preparation import clip_frames, dino_frames, siglip_frames
from cogvx.model.hashes import FileHashes
from cogvx.model.load import without_progress_bars

Kind = Literal["dino", "dinov2", "clip", "siglip2"]

_VERSION = 1  # of the preparation; a change of it changes every feature
_BATCH = 16
_MODELS = {
    "dino": ViTModel,
    "dinov2": Dinov2Model,
    "clip": CLIPVisionModelWithProjection,
    "siglip2": SiglipVisionModel,
}


@dataclass(frozen=True)
class Encoder:
    """A network, ready. `identity` names everything that decides the features of a frame."""

    kind: Kind
    model: Any
    side: int
    identity: str
    device: str = "cpu"

    @torch.no_grad()
    def features(self, rgb_fhwc: Rgb) -> NDArray[np.float32]:
        """Features of every frame, `(f, d)`, not normalised: the class token, or an image's own."""
        with in_float32():
            batches = [
                self._batch(torch.from_numpy(rgb_fhwc[start : start + _BATCH].copy())).cpu()
                for start in range(0, len(rgb_fhwc), _BATCH)
            ]
        found: NDArray[np.float32] = torch.cat(batches).numpy()
        return found

    def _batch(self, rgb_bhwc: Tensor) -> Tensor:
        rgb_bchw = rgb_bhwc.to(self.device).permute(0, 3, 1, 2).float()
        if self.kind == "clip":
            embeds: Tensor = self.model(pixel_values=clip_frames(rgb_bchw, self.side)).image_embeds
            return embeds
        if self.kind == "siglip2":
            pooled: Tensor = self.model(
                pixel_values=siglip_frames(rgb_bchw, self.side)
            ).pooler_output
            return pooled
        pixels_bchw = dino_frames(rgb_bchw, self.side)
        # Dinov2 interpolates its positions by itself, ViT only when asked
        asked = {"interpolate_pos_encoding": True} if self.kind == "dino" else {}
        tokens: Tensor = self.model(pixel_values=pixels_bchw, **asked).last_hidden_state
        return tokens[:, 0]


def open_encoder(
    kind: Kind, folder: Path, *, device: str = "cpu", hashes: FileHashes | None = None
) -> Encoder:
    """Load a network in fp32.

    Where it runs is part of the identity: the last bits of features differ between a CPU and a GPU,
    and between GPUs, and arms must not differ by where they were looked at.

    Args:
        kind: dino (facebook/dino-vitb16 is VBench's for subjects), dinov2 (facebook/dinov2-base),
            clip (openai/clip-vit-base-patch32 is VBench's for backgrounds) or siglip2
            (google/siglip2-base-patch16-224, or another of a fixed size).
        folder: Holds the network's config.json and model.safetensors.
        device: Where it runs, "cpu" or "cuda".
        hashes: Knows what files hashed to before; without it they are read.

    Raises:
        ConfigError: The kind is unknown, or files are missing or are another network's.
    """
    where = f"{kind}={folder}"
    if kind not in _MODELS:
        known = ", ".join(get_args(Kind))
        raise ConfigError(
            "encoders", [Problem(where, None, "is of no kind", f"use one of {known}")]
        )
    if problems := missing_files(kind, folder, where=kind, texts=False):
        raise ConfigError("encoders", problems)
    options: dict[str, Any] = {"add_pooling_layer": False} if kind == "dino" else {}
    half: Literal["vision"] | None = "vision" if kind in ("clip", "siglip2") else None
    model = load_network(_MODELS[kind], folder, where=where, half=half, **options).to(device)
    if kind == "dino":
        embeddings = model.embeddings
        embeddings.interpolate_pos_encoding = functools.partial(_dino_positions, embeddings)
    side = 224 if kind == "dinov2" else int(model.config.image_size)
    parts = {"kind": kind, "side": side, "preparation": _VERSION, "device": device_name(device)}
    parts |= {"torch": torch.__version__, "transformers": transformers.__version__}
    identity = digest({**parts, **contents(folder, NETWORK_FILES, hashes)})
    return Encoder(kind, model, side, identity, device)


def load_network(
    model: Any,
    folder: Path,
    *,
    where: str,
    half: Literal["vision", "text"] | None = None,
    **options: Any,
) -> Any:
    """Load a network of transformers, frozen and in fp32, or one half of one that has two.

    A half takes its projection from the whole: its own configuration may say another width.

    Raises:
        ConfigError: The files cannot be loaded, or are another network's.
    """
    try:
        with without_progress_bars(), _quiet():
            if half is not None:
                whole = AutoConfig.from_pretrained(folder, local_files_only=True)
                part = getattr(whole, f"{half}_config", whole)
                if hasattr(whole, "projection_dim"):
                    part.projection_dim = whole.projection_dim
                options["config"] = part
            loaded, report = model.from_pretrained(
                folder,
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=True,
                **options,
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ConfigError(f"encoder {where} cannot be loaded: {error}") from error
    if report["missing_keys"]:  # transformers fills them with noise and goes on
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise ConfigError("encoders", [Problem(where, None, f"lacks weights, such as {some}")])
    return loaded.float().eval().requires_grad_(requires_grad=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Weights of the other half are not told of, line by line; absent ones are looked for here."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def contents(folder: Path, names: tuple[str, ...], hashes: FileHashes | None) -> dict[str, str]:
    """Hex sha256 of files, by name."""
    known = hashes or FileHashes()
    return {name: known.sha256(folder / name) for name in names}


def device_name(device: str) -> str:
    """What decides the last bits: the kind of GPU, or "cpu" for all of those."""
    return device if device == "cpu" else str(torch.cuda.get_device_name(device))


@contextmanager
def in_float32() -> Iterator[None]:
    """On a GPU no product is rounded to fewer bits, whatever training asked for before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _dino_positions(embeddings: Any, tokens_bnd: Tensor, height: int, width: int) -> Tensor:
    """Positions as DINO's authors interpolate them, by a factor; transformers does by a size.

    The two differ in the third digit of the features wherever frames are not square.
    """
    table_1nd = embeddings.position_embeddings
    grid, patch = round((table_1nd.shape[1] - 1) ** 0.5), embeddings.patch_size
    patch_height, patch_width = patch if isinstance(patch, tuple | list) else (patch, patch)
    rows, columns = height // patch_height, width // patch_width
    if rows == columns == grid:
        return table_1nd  # type: ignore[no-any-return]
    dim = tokens_bnd.shape[-1]
    places_1dhw = table_1nd[:, 1:].reshape(1, grid, grid, dim).permute(0, 3, 1, 2)
    # the tenth keeps rounding from losing a row
    factors = ((rows + 0.1) / grid, (columns + 0.1) / grid)
    places_1dhw = functional.interpolate(places_1dhw, scale_factor=factors, mode="bicubic")
    places_1nd = places_1dhw.permute(0, 2, 3, 1).reshape(1, -1, dim)
    return torch.cat((table_1nd[:, :1], places_1nd), dim=1)
