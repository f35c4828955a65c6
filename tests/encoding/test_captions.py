"""Embeddings are the pipeline's of the same batch, and follow from nothing but their key."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXPipeline
from transformers import T5Config, T5EncoderModel

from cogvx.cache.plan import prompt_key
from cogvx.data.manifest import Clip
from cogvx.errors import ConfigError, DataError
from cogvx.model.encode import encode_prompts
from cogvx.model.load import TextEncoder, load_text
from tests.cache.toys import recipe
from tests.encoding.benches import Bench, encoders_of

TOKENS = 226


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def wide_text(request: pytest.FixtureRequest, nano_base: Path) -> TextEncoder:
    """A T5 of the published length and wide enough that its kernels are those of large ones."""
    torch.manual_seed(0)
    tokenizer = load_text(nano_base, dtype="float32").tokenizer
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=512,
        d_kv=64,
        num_heads=8,
        d_ff=1280,
        num_layers=1,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=False,
    )
    encoder = T5EncoderModel(config).eval().to(getattr(torch, request.param))
    return TextEncoder(tokenizer, encoder)


def embed(text: TextEncoder, captions: Sequence[str]) -> torch.Tensor:
    return encode_prompts(text, captions, TOKENS)


CAPTIONS = [f"a {word} circle moves left over blue" for word in ("red", "green", "large", "small")]


def test_in_a_batch_of_one_size_neither_place_nor_neighbours_change_an_embedding(
    wide_text: TextEncoder,
) -> None:
    """What `PromptKey` rests on; it holds on the CPU in both precisions."""
    together = embed(wide_text, CAPTIONS)
    for shift in (1, 2, 3):
        turned = embed(wide_text, CAPTIONS[shift:] + CAPTIONS[:shift])
        assert torch.equal(turned.roll(shift, 0), together)
    for row, caption in enumerate(CAPTIONS):
        alone = ["", "", "", ""]
        alone[row] = caption
        assert torch.equal(embed(wide_text, alone)[row], together[row])


def test_the_size_of_the_batch_may_change_the_last_bits_so_it_is_in_the_key(
    wide_text: TextEncoder,
) -> None:
    alone = embed(wide_text, CAPTIONS[:1])[0]
    together = embed(wide_text, CAPTIONS)[0]
    coarse = 2.0**-6 if wide_text.encoder.dtype == torch.bfloat16 else 1e-5
    assert (alone.float() - together.float()).abs().max() <= coarse * together.abs().max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_records_are_the_pipelines_embeddings_of_the_same_batch(
    bench: Bench, clips: tuple[Clip, ...], nano_base: Path, dtype: str, batch: int
) -> None:
    made = recipe(base={"dtype": dtype}, cache={"prompt_batch": batch})
    texts = ["a red circle", "ünknown", "a blue square rests", "far more than sixteen tokens " * 9]
    named = tuple(clips[0].model_copy(update={"caption": text}) for text in texts)
    plan = bench.plan(named, made)
    bench.encode(plan, made)
    pipeline = CogVideoXPipeline.from_pretrained(
        nano_base, vae=None, transformer=None, torch_dtype=getattr(torch, dtype)
    )
    captions = [missing.caption for missing in plan.captions]
    assert captions[0] == ""
    assert len(captions) == 5
    for first in range(0, len(captions), batch):
        asked = captions[first : first + batch]
        filled = asked + [""] * (batch - len(asked))
        with torch.no_grad():
            theirs = pipeline._get_t5_prompt_embeds(
                filled, max_sequence_length=bench.encoders.facts.text_tokens
            )
        for caption, embedding_sd in zip(asked, theirs, strict=False):
            assert torch.equal(bench.prompt(caption, made), embedding_sd)
            assert bench.prompt(caption, made).dtype == getattr(torch, dtype)


def test_each_caption_is_encoded_once_in_batches_of_one_size(
    bench: Bench, clips: tuple[Clip, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    forward = T5EncoderModel.forward

    def watched(self: T5EncoderModel, input_ids: torch.Tensor, *rest: object, **named: object):
        shapes.append(tuple(input_ids.shape))
        assert not rest
        assert named.get("attention_mask") is None
        return forward(self, input_ids, **named)

    monkeypatch.setattr(T5EncoderModel, "forward", watched)
    made = recipe(cache={"prompt_batch": 4})
    texts = [f"circle {number % 5}" for number in range(20)]
    named = tuple(clips[0].model_copy(update={"caption": text}) for text in texts)
    report = bench.encode(bench.plan(named, made), made)
    assert report.encoded_prompts == 6  # with the empty one
    assert shapes == [(4, 16), (4, 16)]


def test_the_number_at_once_is_in_the_key(bench: Bench) -> None:
    ids, facts = bench.encoders.ids, bench.encoders.facts
    four = prompt_key("a", recipe(cache={"prompt_batch": 4}), ids, facts)
    assert four.batch == 4
    assert four.digest != prompt_key("a", recipe(), ids, facts).digest


def test_an_embedding_that_is_not_finite_is_refused_with_its_caption(
    bench: Bench, clips: tuple[Clip, ...], nano_base: Path, tmp_path: Path
) -> None:
    (broken := tmp_path / "broken").mkdir()
    for part in ("vae", "tokenizer", "transformer", "scheduler"):
        (broken / part).symlink_to(nano_base / part)
    encoder = T5EncoderModel.from_pretrained(nano_base, subfolder="text_encoder")
    word = load_text(nano_base, dtype="float32").tokenizer(clips[1].caption).input_ids[0]
    encoder.shared.weight.data[word] = float("inf")
    encoder.save_pretrained(broken / "text_encoder")
    bench.encoders = encoders_of(broken)
    with pytest.raises(DataError, match=r'embedding of the caption ".*" is not finite in float32'):
        bench.encode(bench.plan(clips))


def test_a_batch_that_does_not_fit_into_the_gpu_names_its_setting(
    bench: Bench, clips: tuple[Clip, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(T5EncoderModel, "forward", full)
    with pytest.raises(ConfigError, match=r"cache\.prompt_batch = 8 captions do not fit"):
        bench.encode(bench.plan(clips))
