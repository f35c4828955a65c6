"""Build the nano model: a real CogVideoX of the 5b kind at toy size, as an ordinary folder.

Every class is the one that the published checkpoints use, so nothing that reads the folder can tell
that it is small. The weights are random, drawn from the seed alone.
"""

import json
import string
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

from cogvx import files
from cogvx.model.load import without_progress_bars
from cogvx.model.nano.world import SPARE_WORDS, first_words, words

FRAMES, SIDE = 9, 48  # the native size in pixels: 3 latent frames of 12 x 12
TEXT_TOKENS = 16
TEXT_WIDTH = 64
LATENT_CHANNELS = 8
SCALING_FACTOR = 0.7

_VAE_CHANNELS = (16, 32, 32)
_MEAN_GAIN, _POSTERIOR_LOG_VARIANCE = 6.0, -6.0
_PIECE_SCORE, _CHARACTER_SCORE = -2.0, -10.0


def build_nano(folder: Path, *, seed: int = 0) -> None:
    """Write the nano model as a diffusers folder, about 18 MB, whole or not at all.

    The same seed gives the same bytes; the caller's random state stays as it was.

    Raises:
        FileExistsError: Something stands at `folder`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs too
        pipeline = CogVideoXPipeline(
            tokenizer=build_tokenizer(),
            text_encoder=build_text_encoder(),
            vae=build_vae(),
            transformer=build_transformer(),
            scheduler=build_scheduler(),
        )
    files.write_folder(folder, lambda aside: save_nano(pipeline, aside))


def build_tokenizer() -> T5TokenizerFast:
    """A unigram tokenizer: pieces for the world's words and the spare ones, else characters."""
    known = [f"▁{word}" for word in words()]
    known += [f"▁{word.capitalize()}" for word in first_words()]
    known += [f"▁{word}" for word in SPARE_WORDS]
    characters = sorted(set(string.printable) - set(string.whitespace))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", _CHARACTER_SCORE)]
    pieces += [(piece, _PIECE_SCORE) for piece in known]
    pieces += [(character, _CHARACTER_SCORE) for character in characters]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=TEXT_TOKENS)


def build_text_encoder() -> T5EncoderModel:
    """A T5 v1.1 encoder of two layers."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(build_tokenizer()),
            d_model=TEXT_WIDTH,
            d_kv=16,
            num_heads=4,
            d_ff=128,
            num_layers=2,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            tie_word_embeddings=False,
        )
    ).eval()


def build_vae() -> AutoencoderKLCogVideoX:
    """A causal VAE of three levels: 4 times smaller in time and on each side.

    Even before any training, scaled latents are mostly signal and of about unit size.
    """
    vae = AutoencoderKLCogVideoX(
        block_out_channels=_VAE_CHANNELS,
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=1,
        temporal_compression_ratio=4,
        sample_height=SIDE,
        sample_width=SIDE,
        scaling_factor=SCALING_FACTOR,
    )
    weight: Tensor = vae.encoder.conv_out.conv.weight
    bias: Tensor = vae.encoder.conv_out.conv.bias
    with torch.no_grad():
        weight[:LATENT_CHANNELS] *= _MEAN_GAIN
        weight[LATENT_CHANNELS:] *= 0.01
        bias[:LATENT_CHANNELS] = 0.0
        bias[LATENT_CHANNELS:] = _POSTERIOR_LOG_VARIANCE
    return vae.eval()


def build_transformer() -> CogVideoXTransformer3DModel:
    """Six blocks of width 192 with rotary positions, as in 5b."""
    return CogVideoXTransformer3DModel(
        num_attention_heads=6,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        time_embed_dim=64,
        text_embed_dim=TEXT_WIDTH,
        num_layers=6,
        sample_width=SIDE // 4,
        sample_height=SIDE // 4,
        sample_frames=FRAMES,
        patch_size=2,
        max_text_seq_length=TEXT_TOKENS,
        use_rotary_positional_embeddings=True,
    ).eval()


def build_scheduler() -> CogVideoXDPMScheduler:
    """The noise schedule of 5b."""
    return CogVideoXDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
    )


def save_nano(pipeline: CogVideoXPipeline, folder: Path) -> None:
    """Write the parts as a folder that old and new versions of transformers both read."""
    with without_progress_bars():
        pipeline.save_pretrained(folder, safe_serialization=True)
    # transformers 4 knows the tokenizers-backed class only under this name, 5 under both
    _rewrite(folder / "model_index.json", tokenizer=["transformers", "T5TokenizerFast"])
    for part in ("vae", "transformer"):
        # where it was loaded from, which differs from machine to machine
        _rewrite(folder / part / "config.json", _name_or_path=None)


def _rewrite(path: Path, **changes: object) -> None:
    """Change values of a JSON file; None removes one."""
    document = json.loads(path.read_bytes()) | changes
    kept = {name: value for name, value in document.items() if changes.get(name, 0) is not None}
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
