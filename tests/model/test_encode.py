"""Latents and embeddings are bit for bit those that diffusers computes."""

from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXPipeline

from cogvx.errors import DataError
from cogvx.model.encode import decode_latents, encode_prompts, encode_video
from cogvx.model.load import load_text, load_vae, torch_dtype
from cogvx.variants import DType

CAPTIONS = [
    "a large red circle moves left over a blue background",
    "",
    "Ünknown words, much longer than the sixteen tokens that the nano model reads at once",
]


def random_video(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_prompts_are_encoded_as_the_pipeline_does(nano_base: Path, dtype: DType) -> None:
    pipeline = CogVideoXPipeline.from_pretrained(nano_base, torch_dtype=torch_dtype(dtype))
    text = load_text(nano_base, dtype=dtype)
    with torch.no_grad():  # as generation does; with gradients other kernels run
        theirs = pipeline._get_t5_prompt_embeds(CAPTIONS, max_sequence_length=16)
    ours = encode_prompts(text, CAPTIONS, 16)
    assert ours.shape == (3, 16, 64)
    assert ours.dtype == torch_dtype(dtype)
    assert torch.equal(ours, theirs)
    assert ours.isfinite().all()


def test_captions_that_differ_in_one_word_differ(nano_base: Path) -> None:
    text = load_text(nano_base, dtype="float32")
    red, blue = encode_prompts(text, ["a red circle rests", "a blue circle rests"], 16)
    assert (red - blue).abs().max() > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_moments_are_the_posteriors_parameters(nano_base: Path, dtype: DType) -> None:
    vae = load_vae(nano_base, dtype=dtype)
    rgb_bcfhw = random_video(2, 3, 9, 48, 32)
    moments = encode_video(vae, rgb_bcfhw)
    with torch.no_grad():
        posterior = vae.encode(rgb_bcfhw.to(vae.dtype)).latent_dist
    assert moments.shape == (2, 16, 3, 12, 8)
    assert moments.dtype == torch_dtype(dtype)
    assert torch.equal(moments, posterior.parameters)
    assert torch.equal(moments[:, :8], posterior.mode())
    assert not moments.requires_grad


def test_decoding_is_the_pipelines(nano_base: Path) -> None:
    pipeline = CogVideoXPipeline.from_pretrained(nano_base, torch_dtype=torch.float32)
    latents_bcfhw = random_video(1, 8, 3, 12, 12) * 3
    with torch.no_grad():
        theirs = pipeline.decode_latents(latents_bcfhw.permute(0, 2, 1, 3, 4))
    ours = decode_latents(load_vae(nano_base, dtype="float32"), latents_bcfhw)
    assert ours.shape == (1, 3, 9, 48, 48)
    assert torch.equal(ours, theirs.clamp(-1, 1))


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [((1, 3, 8, 48, 48), "8 frames are not 4k"), ((1, 3, 9, 46, 48), "46x48 is not a multiple")],
)
def test_a_clip_that_does_not_divide_is_refused(
    nano_base: Path, shape: tuple[int, ...], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        encode_video(load_vae(nano_base, dtype="float32"), random_video(*shape))


def test_latents_that_are_not_finite_are_refused(nano_base: Path) -> None:
    vae = load_vae(nano_base, dtype="float16")
    with pytest.raises(DataError, match="not finite in torch"):
        encode_video(vae, random_video(1, 3, 9, 16, 16) * 1e5)


def test_an_even_number_of_latents_is_not_decoded_into_too_many_frames(nano_base: Path) -> None:
    vae = load_vae(nano_base, dtype="float32")
    with torch.no_grad():
        assert vae.decode(torch.zeros(1, 8, 2, 4, 4)).sample.shape[2] == 8
    with pytest.raises(DataError, match="2 latent frames cannot be decoded"):
        decode_latents(vae, torch.zeros(1, 8, 2, 4, 4))
    assert decode_latents(vae, torch.zeros(1, 8, 5, 4, 4)).shape[2] == 17
