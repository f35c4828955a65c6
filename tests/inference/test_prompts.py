"""A prompt is encoded once for good, bit for bit as ever; T5 is loaded for nothing else."""

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cogvx.cache.keys import PromptKey
from cogvx.cache.plan import Identities, prompt_key
from cogvx.cache.records import pack_prompt
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
from cogvx.shapes import VideoSize
from cogvx.store import MemoryStore
from cogvx.variants import DType, read_facts
from tests.cache.toys import recipe

CAPTION, OTHER = "a large red circle moves left", "a small green square rests"
REQUEST = Request(
    prompt=CAPTION,
    seed=3,
    size=VideoSize(9, 48, 48),
    fps=8,
    sampling=Sampling(steps=1, guidance=6.0, sampler="dpm"),
)


@pytest.fixture(scope="module")
def encoder_name(nano_base: Path) -> str:
    return fingerprint(nano_base, TEXT_PARTS)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def prompts(nano_base: Path, encoder_name: str, store: MemoryStore) -> CachedPrompts:
    """The toy base's embeddings; the store is still empty."""
    return CachedPrompts(
        store=store,
        encoder_fingerprint=encoder_name,
        max_length=read_facts(nano_base).text_tokens,
        dtype="float32",
    )


@pytest.fixture
def mute_base(nano_base: Path, tmp_path: Path) -> Path:
    """The toy base without its text encoder."""
    shutil.copytree(nano_base, tmp_path / "mute", ignore=shutil.ignore_patterns("text_encoder"))
    return tmp_path / "mute"


@functools.cache
def plain_video(base: Path) -> np.ndarray:
    """What a session makes that has no store."""
    return Session.open(base, dtype="float32").generate(REQUEST)


def encoded(base: Path, caption: str, dtype: DType = "float32") -> Tensor:
    text = load_text(base, dtype=dtype)
    return encode_prompts(text, [caption], read_facts(base).text_tokens)[0]


def unknown() -> Tensor:
    raise AssertionError("this embedding was to be known")


def test_a_prompt_is_encoded_by_the_first_session_only(
    nano_base: Path, mute_base: Path, prompts: CachedPrompts, store: MemoryStore
) -> None:
    first = Session.open(nano_base, dtype="float32", prompts=prompts).generate(REQUEST)
    assert len(store.objects) == 2, "the prompt, and the negative one"
    kept = dict(store.objects)
    later = Session.open(mute_base, dtype="float32", fingerprint="f" * 64, prompts=prompts)
    assert np.array_equal(later.generate(REQUEST), first)
    assert np.array_equal(first, plain_video(nano_base)), "the store changes no pixel"
    with pytest.raises(ConfigError, match="text_encoder cannot be loaded"):
        later.generate(Request(**{**vars(REQUEST), "prompt": OTHER}))
    assert store.objects == kept


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_cache_stage_and_a_session_make_the_same_records(
    nano_base: Path, encoder_name: str, dtype: DType
) -> None:
    facts, ids = read_facts(nano_base), Identities(vae="", text=encoder_name)
    made = recipe(base={"dtype": dtype}, cache={"prompt_batch": 1})
    staged, kept = MemoryStore(), MemoryStore()
    keys = [prompt_key(caption, made, ids, facts) for caption in ("", CAPTION)]
    encode_captions(
        keys, made, Encoders(nano_base, facts, ids), store=staged, on_progress=lambda _done: None
    )
    prompts = CachedPrompts(kept, encoder_name, facts.text_tokens, dtype)
    Session.open(nano_base, dtype=dtype, prompts=prompts).generate(REQUEST)
    assert kept.objects == staged.objects
    found_sd = prompts(CAPTION, unknown)
    assert torch.equal(found_sd, encoded(nano_base, CAPTION, dtype))


def test_nothing_is_taken_for_another_prompt(
    nano_base: Path, prompts: CachedPrompts, store: MemoryStore
) -> None:
    spaced = f" {CAPTION}"
    for caption in (CAPTION, spaced):  # training would embed one normal form for both
        prompts(caption, functools.partial(encoded, nano_base, caption))
        assert torch.equal(prompts(caption, unknown), encoded(nano_base, caption))
    assert len(store.objects) == 2
    other = CachedPrompts(**{**vars(prompts), "encoder_fingerprint": "f" * 64})
    with pytest.raises(AssertionError, match="was to be known"):
        other(CAPTION, unknown)


@pytest.mark.parametrize("harm", ["flipped", "cut", "emptied", "swapped"])
def test_a_damaged_record_is_mended(
    nano_base: Path,
    prompts: CachedPrompts,
    store: MemoryStore,
    caplog: pytest.LogCaptureFixture,
    harm: str,
) -> None:
    for caption in (CAPTION, OTHER):
        prompts(caption, functools.partial(encoded, nano_base, caption))
    whole = dict(store.objects)
    key, other = whole
    data = whole[key]
    harmed = {
        "flipped": data[:-1] + bytes([data[-1] ^ 1]),
        "cut": data[: len(data) // 2],
        "emptied": b"",
        "swapped": whole[other],
    }
    store.write(key, harmed[harm])
    mended_sd = prompts(CAPTION, functools.partial(encoded, nano_base, CAPTION))
    assert torch.equal(mended_sd, encoded(nano_base, CAPTION))
    assert store.objects == whole
    assert "the prompt is encoded again" in caplog.text


def test_an_embedding_of_another_base_is_refused(
    nano_base: Path, prompts: CachedPrompts, store: MemoryStore
) -> None:
    key = PromptKey(CAPTION, prompts.encoder_fingerprint, prompts.max_length, "float32", batch=1)
    store.write(key.path, pack_prompt(key, torch.zeros(226, 4096)))
    session = Session.open(nano_base, dtype="float32", prompts=prompts)
    with pytest.raises(IntegrityError, match=r"\(226, 4096\), but .* takes \(16, .* another base"):
        session.generate(REQUEST)


@pytest.mark.parametrize("change", [{"max_length": 226}, {"dtype": "bfloat16"}])
def test_what_is_kept_is_what_its_name_says(
    nano_base: Path, prompts: CachedPrompts, store: MemoryStore, change: dict[str, object]
) -> None:
    """Training trusts these names, and a session may be opened otherwise than its store."""
    other = CachedPrompts(**{**vars(prompts), **change})
    with pytest.raises(ConfigError, match="16 tokens in torch"):
        Session.open(nano_base, dtype="float32", prompts=other).generate(REQUEST)
    assert store.objects == {}


def test_an_embedding_that_is_not_finite_is_neither_used_nor_kept(
    nano_base: Path, tmp_path: Path, prompts: CachedPrompts, store: MemoryStore
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(nano_base, broken)
    text = load_text(nano_base, dtype="float32")
    with torch.no_grad():
        text.encoder.shared.weight.fill_(torch.inf)
    text.encoder.save_pretrained(broken / "text_encoder")
    session = Session.open(broken, dtype="float32", fingerprint="f" * 64, prompts=prompts)
    with pytest.raises(IntegrityError, match="is not finite in float32"):
        session.generate(REQUEST)
    assert store.objects == {}


@pytest.mark.parametrize("offload", ["model", "group"])
def test_an_encoder_that_waits_in_memory_encodes_the_same(nano_base: Path, offload: str) -> None:
    session = Session.open(nano_base, dtype="float32", memory=Memory(offload=offload))
    assert np.array_equal(session.generate(REQUEST), plain_video(nano_base))
