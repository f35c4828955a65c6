"""What the cache stage embedded is found, bit for bit; T5 is loaded for nothing else."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cogvx.cache.plan import Identities, prompt_key
from cogvx.encoding import Encoders
from cogvx.encoding.captions import encode_captions
from cogvx.errors import ConfigError, IntegrityError
from cogvx.inference.memory import Memory
from cogvx.inference.prompts import CachedPrompts
from cogvx.inference.request import Request, Sampling
from cogvx.inference.session import Session
from cogvx.model.encode import encode_prompts
from cogvx.model.identity import TEXT_PARTS, fingerprint
from cogvx.model.load import load_text
from cogvx.recipe import Recipe
from cogvx.shapes import VideoSize
from cogvx.store import MemoryStore
from cogvx.variants import read_facts
from tests.cache.toys import recipe

CAPTION, OTHER = "a large red circle moves left", "a small green square rests"
REQUEST = Request(
    prompt=CAPTION,
    seed=3,
    size=VideoSize(9, 48, 48),
    fps=8,
    sampling=Sampling(steps=2, guidance=6.0, sampler="dpm"),
)


def cached(base: Path, made: Recipe, *captions: str) -> CachedPrompts:
    """A store in which the cache stage has embedded captions, and its reader."""
    store, facts = MemoryStore(), read_facts(base)
    ids = Identities(vae="", text=fingerprint(base, TEXT_PARTS))
    keys = [prompt_key(caption, made, ids, facts) for caption in captions]
    encode_captions(
        keys, made, Encoders(base, facts, ids), store=store, on_progress=lambda _done: None
    )
    return CachedPrompts(
        store=store,
        encoder_fingerprint=ids.text,
        max_length=facts.text_tokens,
        dtype=made.base.dtype,
        batch=made.cache.prompt_batch,
    )


@pytest.fixture
def mute_base(nano_base: Path, tmp_path: Path) -> Path:
    """The toy base without its text encoder."""
    shutil.copytree(nano_base, tmp_path / "mute", ignore=shutil.ignore_patterns("text_encoder"))
    return tmp_path / "mute"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 8])
def test_what_is_stored_is_what_encoding_afresh_gives(
    nano_base: Path, dtype: str, batch: int
) -> None:
    prompts = cached(
        nano_base, recipe(base={"dtype": dtype}, cache={"prompt_batch": batch}), "", CAPTION
    )
    text = load_text(nano_base, dtype=dtype)
    for caption in ("", CAPTION):
        afresh_bsd = encode_prompts(text, [caption] * batch, prompts.max_length)
        assert torch.equal(prompts(caption), afresh_bsd[0])
    assert prompts(OTHER) is None


def test_nothing_is_taken_for_another_prompt(nano_base: Path) -> None:
    prompts = cached(nano_base, recipe(), CAPTION)
    assert prompts(f" {CAPTION}") is None, "training embedded the normal form"
    for change in ({"encoder_fingerprint": "f" * 64}, {"dtype": "float16"}, {"batch": 2}):
        other = CachedPrompts(**{**vars(prompts), **change})
        assert other(CAPTION) is None


def test_known_prompts_need_no_text_encoder(nano_base: Path, mute_base: Path) -> None:
    known = cached(nano_base, recipe(), "", CAPTION)
    session = Session.open(mute_base, dtype="float32", fingerprint="f" * 64, prompts=known)
    video = session.generate(REQUEST)
    with pytest.raises(ConfigError, match="text_encoder cannot be loaded"):
        session.generate(Request(**{**vars(REQUEST), "prompt": OTHER}))
    assert np.array_equal(session.generate(REQUEST), video)


def test_a_prompt_is_embedded_alike_whether_it_was_known_or_not(nano_base: Path) -> None:
    """Else a video would follow from what lies in the store by chance."""
    made = recipe(cache={"prompt_batch": 5})
    full, bare = cached(nano_base, made, "", CAPTION), cached(nano_base, made)
    videos = [
        Session.open(nano_base, dtype="float32", prompts=prompts).generate(REQUEST)
        for prompts in (full, bare)
    ]
    assert np.array_equal(*videos)


def test_a_damaged_record_is_refused(nano_base: Path) -> None:
    prompts = cached(nano_base, recipe(), CAPTION)
    (entry,) = prompts.store.entries("records/prompts")
    data = bytearray(prompts.store.read(entry.key))
    data[-1] ^= 1
    prompts.store.write(entry.key, bytes(data))
    with pytest.raises(IntegrityError, match=r"record .* is damaged"):
        prompts(CAPTION)


def test_an_embedding_of_another_base_is_refused(nano_base: Path) -> None:
    session = Session.open(nano_base, dtype="float32", prompts=lambda _: torch.zeros(226, 4096))
    with pytest.raises(IntegrityError, match=r"\(226, 4096\), but .* takes \(16, .* another base"):
        session.generate(REQUEST)


@pytest.mark.parametrize("offload", ["model", "group"])
def test_an_encoder_that_waits_in_memory_encodes_the_same(nano_base: Path, offload: str) -> None:
    sessions = [
        Session.open(nano_base, dtype="float32", memory=Memory(offload=choice))
        for choice in ("none", offload)
    ]
    assert np.array_equal(*(session.generate(REQUEST) for session in sessions))
