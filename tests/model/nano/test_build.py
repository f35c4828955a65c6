"""The nano model is an ordinary CogVideoX folder, the same bytes for the same seed."""

import filecmp
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXPipeline

from cogvx.model.encode import decode_latents, encode_video
from cogvx.model.load import load_text, load_transformer, load_vae
from cogvx.model.nano.build import TEXT_TOKENS, build_nano
from cogvx.model.nano.world import captions, draw_scene, render
from cogvx.shapes import Compression, VideoSize
from cogvx.variants import read_facts


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_the_same_seed_gives_the_same_bytes(nano_base: Path, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    build_nano(tmp_path / "again", seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    names = files_below(nano_base)
    assert files_below(tmp_path / "again") == names
    same, *_ = filecmp.cmpfiles(nano_base, tmp_path / "again", names, shallow=False)
    assert sorted(same) == names


def test_another_seed_gives_other_weights(nano_base: Path, tmp_path: Path) -> None:
    build_nano(tmp_path / "other", seed=1)
    for load in (load_vae, load_transformer):
        one = load(nano_base, dtype="float32").state_dict()
        other = load(tmp_path / "other", dtype="float32").state_dict()
        assert any(not torch.equal(one[name], other[name]) for name in one)


def test_it_is_of_the_5b_kind_and_small(nano_base: Path) -> None:
    facts = read_facts(nano_base)
    assert facts.variant.name == "CogVideoX-5b"
    assert facts.compression == Compression(temporal=4, spatial=4)
    assert facts.sample_size == VideoSize(9, 48, 48)
    assert facts.text_tokens == 16
    assert facts.snr_shift_scale == 1.0
    assert sum((nano_base / name).stat().st_size for name in files_below(nano_base)) < 20e6


def test_a_finished_folder_is_never_overwritten(nano_base: Path) -> None:
    with pytest.raises(FileExistsError):
        build_nano(nano_base)


def test_plain_diffusers_generates_with_it(nano_base: Path) -> None:
    pipeline = CogVideoXPipeline.from_pretrained(nano_base, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(
        "a red circle moves left",
        num_inference_steps=2,
        max_sequence_length=16,
        num_frames=9,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).frames
    assert frames.shape == (1, 9, 3, 48, 48)
    assert frames.isfinite().all()
    assert frames.std() > 0.01


def test_every_caption_of_its_world_fits_word_by_word(nano_base: Path) -> None:
    tokenizer = load_text(nano_base, dtype="float32").tokenizer
    for caption in captions(200, seed=0):
        tokens = tokenizer.tokenize(caption)
        assert "".join(tokens).replace("▁", " ").strip() == caption
        assert len(tokens) == len(caption.replace(",", " ,").split())
        assert len(tokenizer(caption).input_ids) <= TEXT_TOKENS


@pytest.mark.parametrize("caption", ["Zebras! 42 of them?", "ein großer Kreis", "", "红色圆圈"])
def test_any_caption_tokenises(nano_base: Path, caption: str) -> None:
    tokenizer = load_text(nano_base, dtype="float32").tokenizer
    ids = tokenizer(caption, padding="max_length", max_length=TEXT_TOKENS, truncation=True)
    assert len(ids.input_ids) == TEXT_TOKENS
    assert tokenizer.eos_token_id in ids.input_ids
    if caption.isascii():
        assert tokenizer.unk_token_id not in ids.input_ids


def test_latents_of_its_world_are_mostly_signal_of_unit_size(nano_base: Path) -> None:
    vae = load_vae(nano_base, dtype="float32")
    clips = [render(draw_scene(0, number), frames=9, size=48) for number in range(4)]
    rgb_bcfhw = torch.stack([torch.from_numpy(clip) for clip in clips]).permute(0, 4, 1, 2, 3)
    mean, log_variance = encode_video(vae, rgb_bcfhw / 127.5 - 1).chunk(2, dim=1)
    assert 0.5 < (mean * vae.config.scaling_factor).std() < 2
    assert log_variance.exp().sqrt().mean() < 0.1 * mean.std()
    decoded = decode_latents(vae, mean * vae.config.scaling_factor)
    assert decoded.isfinite().all()
