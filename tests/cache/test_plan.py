"""The plan names exactly what is missing, once, and is made without a model."""

import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvx.cache.plan import (
    LISTING_ABOVE,
    CachePlan,
    Identities,
    latent_key,
    plan_cache,
    prompt_key,
    record_paths,
    samples,
)
from cogvx.data.manifest import Manifest
from cogvx.errors import TransientError
from cogvx.store import LocalStore, MemoryStore, ObjectInfo
from cogvx.variants import PUBLISHED
from tests.cache.toys import IDS, clip, recipe

FACTS = PUBLISHED["CogVideoX-5b"]
RECIPE = recipe()


class CountingStore(MemoryStore):
    """Counts what a remote store would have to answer, a page in no less than some time."""

    def __init__(self, failing_at: str = "") -> None:
        super().__init__()
        self.asked: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._failing_at = failing_at

    def info(self, key: str) -> ObjectInfo | None:
        self.asked.append("info")
        return super().info(key)

    def entries(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self.asked.append(f"entries {prefix}")
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        if prefix == self._failing_at:
            raise TransientError("the store is busy")
        time.sleep(0.02)
        self._at_once -= 1
        yield from super().entries(prefix)


def plan(store: MemoryStore, *clips: object) -> CachePlan:
    manifest = Manifest(dataset="file:///clips", clips=clips)
    return plan_cache(manifest, RECIPE, facts=FACTS, ids=IDS, store=store)


def test_an_empty_store_lacks_every_clip_every_caption_and_the_empty_one() -> None:
    clips = [clip(1, "one"), clip(2, "two")]
    made = plan(MemoryStore(), *clips)
    assert [missing.clip for missing in made.clips] == clips
    assert [missing.caption for missing in made.captions] == ["", "one", "two"]
    assert (made.latents_wanted, made.latents_present) == (2, 0)
    assert (made.prompts_wanted, made.prompts_present) == (3, 0)
    assert not made.is_complete


def test_captions_that_mean_the_same_are_wanted_once() -> None:
    made = plan(
        MemoryStore(), clip(1, "caf\u00e9  noir "), clip(2, "cafe\u0301 noir"), clip(3, " ")
    )
    assert [missing.caption for missing in made.captions] == ["", "caf\u00e9 noir"]


def test_copies_of_a_clip_are_wanted_once() -> None:
    copy = clip(1, key="elsewhere/copy.mp4")
    assert plan(MemoryStore(), clip(1), copy).latents_wanted == 1
    assert plan(MemoryStore(), clip(1), clip(1, start_frame=5)).latents_wanted == 2


@pytest.mark.parametrize("count", [3, LISTING_ABOVE + 5])
def test_what_is_stored_is_not_missing(count: int) -> None:
    store = MemoryStore()
    clips = [clip(number, f"caption {number}") for number in range(count)]
    store.write(latent_key(clips[1], RECIPE, IDS).path, b"record")
    store.write(prompt_key("caption 2", RECIPE, IDS, FACTS).path, b"record")
    made = plan(store, *clips)
    assert [missing.clip for missing in made.clips] == [clips[0], *clips[2:]]
    assert "caption 2" not in [missing.caption for missing in made.captions]
    assert (made.latents_present, made.prompts_present) == (1, 1)


def test_a_plan_after_everything_was_stored_is_complete() -> None:
    store = MemoryStore()
    clips = [clip(1), clip(2)]
    empty = prompt_key("", RECIPE, IDS, FACTS).digest
    for path in record_paths(samples(clips, RECIPE, facts=FACTS, ids=IDS), empty).values():
        store.write(path, b"record")
    made = plan(store, *clips)
    assert made.is_complete
    assert (made.latents_present, made.prompts_present) == (2, 2)


def test_many_records_are_looked_up_by_listings_that_do_not_wait_for_each_other() -> None:
    store = CountingStore()
    plan(store, *(clip(number, f"caption {number}") for number in range(1000)))
    kinds = ("latents", "prompts")
    by_digit = [f"entries records/{kind}/{digit:x}" for kind in kinds for digit in range(16)]
    assert sorted(store.asked) == by_digit
    assert store.most_at_once > 1


def test_a_store_that_fails_one_listing_fails_the_plan() -> None:
    store = CountingStore(failing_at="records/latents/1")
    with pytest.raises(TransientError, match="busy"):
        plan(store, *(clip(number) for number in range(1000)))


@pytest.mark.parametrize("folder", [True, False])
def test_what_is_stored_is_found_whatever_its_first_digit(folder: bool, tmp_path: Path) -> None:
    store = LocalStore(tmp_path) if folder else MemoryStore()
    clips = [clip(number, f"caption {number}") for number in range(200)]
    wanted = samples(clips, RECIPE, facts=FACTS, ids=IDS)
    absent = {wanted[5].latents, wanted[7].prompt, prompt_key("", RECIPE, IDS, FACTS).digest}
    for name, path in record_paths(wanted).items():
        if name not in absent:
            store.write(path, b"")
    made = plan(store, *clips)
    assert {missing.key for missing in (*made.clips, *made.captions)} == absent


def test_few_records_are_asked_for_one_by_one() -> None:
    store = CountingStore()
    plan(store, clip(1), clip(2))
    assert store.asked == ["info"] * 4


@pytest.mark.parametrize(
    ("changed", "latents_differ", "prompts_differ"),
    [
        (recipe(base={"dtype": "bfloat16"}), True, True),
        (recipe(video={"fps": 16}), True, False),
        (recipe(cache={"vae_tiling": "on"}), True, False),
        (recipe(cache={"vae_tiling": "off"}), False, False),
        (recipe(base={"path": "elsewhere"}), False, False),
        (recipe(lora={"rank": 64}), False, False),
        (recipe(train={"steps": 11}), False, False),
    ],
)
def test_records_are_shared_by_recipes_that_encode_alike(
    changed: object, latents_differ: bool, prompts_differ: bool
) -> None:
    (before,) = samples([clip(1)], RECIPE, facts=FACTS, ids=IDS)
    (after,) = samples([clip(1)], changed, facts=FACTS, ids=IDS)
    assert (before.latents != after.latents) == latents_differ
    assert (before.prompt != after.prompt) == prompts_differ


def test_other_encoders_and_token_limits_make_other_records() -> None:
    def names(ids: Identities = IDS, facts: object = FACTS) -> tuple[str, str]:
        (sample,) = samples([clip(1)], RECIPE, facts=facts, ids=ids)
        return sample.latents, sample.prompt

    latents, prompt = names()
    other_vae = names(ids=dataclasses.replace(IDS, vae="c" * 64))
    other_text = names(ids=dataclasses.replace(IDS, text="c" * 64))
    shorter = names(facts=dataclasses.replace(FACTS, text_tokens=16))
    assert other_vae[0] != latents
    assert other_vae[1] == prompt
    assert other_text[0] == latents
    assert other_text[1] != prompt
    assert shorter[0] == latents
    assert shorter[1] != prompt


def test_samples_keep_the_order_of_the_clips() -> None:
    clips = [clip(2, "two  words"), clip(1, "one")]
    named = samples(clips, RECIPE, facts=FACTS, ids=IDS)
    assert [sample.clip for sample in named] == ["clips/0002.mp4", "clips/0001.mp4"]
    assert [sample.caption for sample in named] == ["two words", "one"]
    assert named[0].latents == latent_key(clips[0], RECIPE, IDS).digest
    assert named[0].prompt == prompt_key("two words", RECIPE, IDS, FACTS).digest


def test_a_plan_survives_its_way_through_json() -> None:
    made = plan(MemoryStore(), clip(1))
    assert CachePlan.model_validate_json(made.model_dump_json()) == made


def test_planning_loads_no_model_library() -> None:
    heavy = "{'torch', 'diffusers', 'transformers', 'safetensors', 'decord', 'av'}"
    code = f"import sys, cogvx.cache.plan; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
