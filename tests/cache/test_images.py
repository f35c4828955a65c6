"""Noised first frames are planned for image-to-video bases, draw by draw, and for no others."""

import pytest

from cogvx.cache.plan import (
    CachePlan,
    MissingClip,
    image_keys,
    latent_key,
    plan_cache,
    record_paths,
    samples,
)
from cogvx.data.manifest import Manifest
from cogvx.store import MemoryStore
from cogvx.variants import PUBLISHED
from tests.cache.toys import IDS, clip, recipe

I2V = PUBLISHED["CogVideoX1.5-5B-I2V"]
RECIPE = recipe(cache={"image_draws": 3})
CLIPS = [clip(1), clip(2)]


def plan(store: MemoryStore, *, facts: object = I2V, made: object = RECIPE) -> CachePlan:
    manifest = Manifest(dataset="memory://", clips=CLIPS)
    return plan_cache(manifest, made, facts=facts, ids=IDS, store=store)


@pytest.mark.parametrize("name", ["CogVideoX-2b", "CogVideoX-5b", "CogVideoX1.5-5B"])
def test_a_text_to_video_base_needs_none(name: str) -> None:
    made = plan(MemoryStore(), facts=PUBLISHED[name])
    assert made.images_wanted == 0
    assert all(missing.draws == () for missing in made.clips)
    assert samples(CLIPS, RECIPE, facts=PUBLISHED[name], ids=IDS)[0].images == ()


@pytest.mark.parametrize("name", ["CogVideoX-5b-I2V", "CogVideoX1.5-5B-I2V"])
def test_an_image_to_video_base_needs_every_draw_of_every_window(name: str) -> None:
    made = plan(MemoryStore(), facts=PUBLISHED[name])
    assert (made.images_wanted, made.images_present) == (6, 0)
    assert [missing.draws for missing in made.clips] == [(0, 1, 2)] * 2


def test_more_draws_add_to_those_that_are_there() -> None:
    store = MemoryStore()
    for path in record_paths(samples(CLIPS, RECIPE, facts=I2V, ids=IDS)).values():
        store.write(path, b"record")
    assert plan(store).clips == ()
    key = latent_key(CLIPS[0], RECIPE, IDS).digest
    more = plan(store, made=recipe(cache={"image_draws": 5})).clips
    assert more[0] == MissingClip(clip=CLIPS[0], key=key, latents=False, draws=(3, 4))


def test_latents_alone_may_be_missing() -> None:
    store = MemoryStore()
    for item in CLIPS:
        for key in image_keys(item, RECIPE, facts=I2V, ids=IDS):
            store.write(key.path, b"record")
    made = plan(store)
    assert [(missing.latents, missing.draws) for missing in made.clips] == [(True, ())] * 2
    assert (made.images_wanted, made.images_present) == (6, 6)


def test_a_sample_names_its_first_frames_in_the_order_of_their_draws() -> None:
    (sample, _) = samples(CLIPS, RECIPE, facts=I2V, ids=IDS)
    keys = image_keys(CLIPS[0], RECIPE, facts=I2V, ids=IDS)
    assert sample.images == tuple(key.digest for key in keys)
    assert len(set(sample.images)) == 3
    assert {key.path for key in keys} < set(record_paths([sample]).values())
