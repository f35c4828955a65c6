"""Parts are loaded in the stated precision, frozen, and whole or not at all."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from safetensors.torch import load_file, save_file

from cogvx.errors import ConfigError, IntegrityError
from cogvx.model.load import (
    load_scheduler,
    load_text,
    load_transformer,
    load_vae,
    torch_dtype,
    without_progress_bars,
)
from cogvx.variants import DType

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_parts_have_the_stated_precision_and_are_frozen(nano_base: Path, dtype: DType) -> None:
    for part in (load_vae(nano_base, dtype=dtype), load_transformer(nano_base, dtype=dtype)):
        assert {weight.dtype for weight in part.parameters()} == {torch_dtype(dtype)}
        assert not part.training
        assert not any(weight.requires_grad for weight in part.parameters())


def test_a_float16_text_encoder_keeps_its_wo_layers_in_float32(nano_base: Path) -> None:
    encoder = load_text(nano_base, dtype="float16").encoder
    dtypes = {
        ".wo." in name: weight.dtype
        for name, weight in encoder.named_parameters()
        if "relative" not in name
    }
    assert dtypes == {True: torch.float32, False: torch.float16}
    assert encoder.dtype == torch.float16


def test_tiling_is_as_asked(nano_base: Path) -> None:
    assert not load_vae(nano_base, dtype="float32").use_tiling
    assert load_vae(nano_base, dtype="float32", tiling=True).use_tiling


@pytest.mark.parametrize(
    ("sampler", "kind"), [("dpm", CogVideoXDPMScheduler), ("ddim", CogVideoXDDIMScheduler)]
)
def test_both_samplers_share_the_table_and_begin_at_pure_noise(
    nano_base: Path, sampler: str, kind: type
) -> None:
    scheduler = load_scheduler(nano_base, sampler)
    assert type(scheduler) is kind
    assert torch.equal(
        scheduler.alphas_cumprod,
        CogVideoXDPMScheduler.from_pretrained(nano_base, subfolder="scheduler").alphas_cumprod,
    )
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == list(range(999, 0, -20))
    assert scheduler.alphas_cumprod[-1] == 0


def test_trailing_spacing_does_not_depend_on_the_checkpoint(
    nano_base: Path, tmp_path: Path
) -> None:
    config = CogVideoXDPMScheduler.from_pretrained(nano_base, subfolder="scheduler").config
    old = CogVideoXDPMScheduler.from_config(config, timestep_spacing="linspace")
    old.save_pretrained(tmp_path / "scheduler")
    assert load_scheduler(tmp_path, "ddim").config.timestep_spacing == "trailing"


def test_a_part_that_is_not_there_is_a_sentence(nano_base: Path, tmp_path: Path) -> None:
    for load in (load_vae, load_transformer, load_text):
        with pytest.raises(ConfigError, match=f"{tmp_path}.* cannot be loaded"):
            load(tmp_path, dtype="float32")
    with pytest.raises(ConfigError, match=f"{tmp_path}.* cannot be loaded"):
        load_scheduler(tmp_path, "dpm")
    shutil.copytree(nano_base / "text_encoder", tmp_path / "text_encoder")
    with pytest.raises(ConfigError, match="tokenizer cannot be loaded"):
        load_text(tmp_path, dtype="float32")


def test_a_missing_weight_is_not_drawn_at_random(nano_base: Path, tmp_path: Path) -> None:
    shutil.copytree(nano_base / "vae", tmp_path / "vae")
    weights = load_file(tmp_path / "vae" / WEIGHTS)
    del weights["encoder.conv_in.conv.weight"]
    save_file(weights, tmp_path / "vae" / WEIGHTS, {"format": "pt"})
    with pytest.raises(IntegrityError, match=r"lacks 1 weights, such as encoder.conv_in"):
        load_vae(tmp_path, dtype="float32")


def test_damaged_weights_are_refused(nano_base: Path, tmp_path: Path) -> None:
    shutil.copytree(nano_base / "transformer", tmp_path / "transformer")
    weights = tmp_path / "transformer" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises((IntegrityError, ConfigError), match="transformer"):
        load_transformer(tmp_path, dtype="float32")


def test_loading_leaves_the_random_state_and_the_progress_bars_alone(nano_base: Path) -> None:
    from transformers.utils import logging

    before, bars = torch.random.get_rng_state(), logging.is_progress_bar_enabled()
    load_vae(nano_base, dtype="float32")
    load_text(nano_base, dtype="float32")
    load_transformer(nano_base, dtype="float32")
    with without_progress_bars():
        assert not logging.is_progress_bar_enabled()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert logging.is_progress_bar_enabled() == bars


def sentencepiece_model(pieces: list[tuple[str, float, int]]) -> bytes:
    """A unigram model in SentencePiece's protobuf form; kinds 1 normal, 2 unknown, 3 control."""

    def field(number: int, payload: bytes) -> bytes:
        return bytes([number << 3 | 2, len(payload)]) + payload

    def piece(text: str, score: float, kind: int) -> bytes:
        return (
            field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
        )

    trainer = b"\x18\x01" + b"\xc0\x02\x02"  # model_type unigram, unk_id 2
    body = b"".join(field(1, piece(*entry)) for entry in pieces)
    return body + field(2, trainer) + field(3, field(1, b"identity"))


def test_a_published_tokenizer_is_read_from_its_sentencepiece_file(
    nano_base: Path, tmp_path: Path
) -> None:
    pytest.importorskip("sentencepiece", reason="published checkpoints need it, ours does not")
    shutil.copytree(nano_base / "text_encoder", tmp_path / "text_encoder")
    (tmp_path / "tokenizer").mkdir()
    pieces = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2), ("▁", -9.0, 1)]
    pieces += [("▁a", -2.0, 1), ("▁red", -2.0, 1), *((letter, -9.0, 1) for letter in "cat")]
    (tmp_path / "tokenizer/spiece.model").write_bytes(sentencepiece_model(pieces))
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "model_max_length": 226}
    (tmp_path / "tokenizer/tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_text(tmp_path, dtype="float32").tokenizer
    assert tokenizer("a red").input_ids == [4, 5, 1]
    assert tokenizer.tokenize("a cat") == ["▁a", "▁", "c", "a", "t"]
