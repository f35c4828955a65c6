"""A size that did not fit whole is tiled from then on, everywhere, for that VAE and precision."""

import dataclasses

import pytest

from cogvx.cache.plan import latent_key, plan_cache
from cogvx.cache.tilings import mark_tiled, tiled_sizes
from cogvx.data.manifest import Manifest
from cogvx.errors import IntegrityError
from cogvx.shapes import VideoSize
from cogvx.store import MemoryStore
from cogvx.variants import PUBLISHED
from tests.cache.toys import IDS, clip, recipe

SMALL, LARGE = VideoSize(9, 48, 48), VideoSize(81, 768, 1360)


def test_what_was_marked_is_read_back_for_that_vae_and_precision_only() -> None:
    store = MemoryStore()
    for _ in range(2):
        mark_tiled(store, LARGE, vae="a", dtype="bfloat16")
    mark_tiled(store, SMALL, vae="a", dtype="bfloat16")
    assert set(tiled_sizes(store, vae="a", dtype="bfloat16")) == {SMALL, LARGE}
    assert tiled_sizes(store, vae="a", dtype="float16") == ()
    assert tiled_sizes(store, vae="b", dtype="bfloat16") == ()


def test_a_foreign_document_is_named() -> None:
    store = MemoryStore()
    mark_tiled(store, SMALL, vae="a", dtype="float32")
    (key,) = store.objects
    store.write(key.replace("9x48x48", "notes"), b"{}")
    with pytest.raises(IntegrityError, match=r"notes\.json in memory:// names no video size"):
        tiled_sizes(store, vae="a", dtype="float32")


@pytest.mark.parametrize(
    ("asked", "tiled", "is_tiled"),
    [
        ("auto", (), False),
        ("auto", (SMALL,), True),
        ("auto", (LARGE,), False),
        ("off", (SMALL,), False),
        ("on", (), True),
    ],
)
def test_a_key_says_whether_its_size_is_tiled(
    asked: str, tiled: tuple[VideoSize, ...], is_tiled: bool
) -> None:
    ids = dataclasses.replace(IDS, tiled=tiled)
    key = latent_key(clip(1, size=SMALL), recipe(cache={"vae_tiling": asked}), ids)
    assert key.tiling == is_tiled


def test_a_size_that_became_tiled_is_planned_again_and_the_others_are_not() -> None:
    store, facts, made = MemoryStore(), PUBLISHED["CogVideoX-5b"], recipe()
    clips = [clip(1, size=SMALL), clip(2, size=LARGE)]
    for item in clips:
        store.write(latent_key(item, made, IDS).path, b"record")
    ids = dataclasses.replace(IDS, tiled=(LARGE,))
    manifest = Manifest(dataset="memory://", clips=clips)
    plan = plan_cache(manifest, made, facts=facts, ids=ids, store=store)
    assert [missing.clip for missing in plan.clips] == [clips[1]]
