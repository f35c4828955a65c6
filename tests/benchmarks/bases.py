"""Encoders for benchmarks: random weights of the published form, at a stated width."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX
from transformers import T5Config, T5EncoderModel

from cogvx.model.load import without_progress_bars
from cogvx.model.nano.build import build_nano

TOKENS = 226


@dataclass(frozen=True)
class Width:
    """How wide the two encoders are; depths of the VAE, heads of 64 and norms are the published."""

    vae: tuple[int, ...]
    text: int
    text_inner: int
    text_layers: int
    latents: int = 16


PUBLISHED = Width(vae=(128, 256, 256, 512), text=4096, text_inner=10_240, text_layers=24)
WIDE = Width(vae=(32, 64, 64, 128), text=512, text_inner=1280, text_layers=4)


def random_vae(width: Width) -> AutoencoderKLCogVideoX:
    """Compresses 4 and 8 times into as many channels."""
    sizes = {"block_out_channels": width.vae, "latent_channels": width.latents}
    return AutoencoderKLCogVideoX(**sizes).eval()


def random_t5(width: Width, *, vocabulary: int = 32_128) -> T5EncoderModel:
    """A T5 v1.1 encoder."""
    config = T5Config(
        vocab_size=vocabulary,
        d_model=width.text,
        d_kv=64,
        num_heads=width.text // 64,
        d_ff=width.text_inner,
        num_layers=width.text_layers,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=False,
    )
    return T5EncoderModel(config).eval()


def build_base(folder: Path, width: Width) -> Path:
    """The toy model's folder with such encoders in it, which read 226 tokens."""
    build_nano(folder)
    torch.manual_seed(0)
    for part in ("vae", "text_encoder"):
        shutil.rmtree(folder / part)
    with without_progress_bars():
        random_vae(width).save_pretrained(folder / "vae")
        random_t5(width, vocabulary=400).save_pretrained(folder / "text_encoder")
    config = folder / "transformer" / "config.json"
    document = config.read_text()
    config.write_text(document.replace('seq_length": 16', f'seq_length": {TOKENS}'))
    return folder
