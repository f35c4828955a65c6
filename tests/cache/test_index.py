"""An index reaches exactly the records that its samples and the empty caption need."""

import subprocess
import sys

from cogvx.cache.index import CacheIndex, index_cache
from cogvx.cache.plan import latent_key, plan_cache, prompt_key
from cogvx.data.manifest import Manifest
from cogvx.store import MemoryStore
from cogvx.variants import PUBLISHED
from tests.cache.toys import IDS, clip, recipe

FACTS = PUBLISHED["CogVideoX-5b"]
RECIPE = recipe()
CLIPS = [clip(1, "one"), clip(2, "two", split="heldout"), clip(3, "one")]
MANIFEST = Manifest(dataset="file:///clips", clips=CLIPS)


def made() -> CacheIndex:
    return index_cache(MANIFEST, RECIPE, facts=FACTS, ids=IDS)


def test_it_reaches_every_record_of_both_splits_and_the_empty_caption() -> None:
    latents = {latent_key(item, RECIPE, IDS).path for item in CLIPS}
    prompts = {prompt_key(text, RECIPE, IDS, FACTS).path for text in ("", "one", "two")}
    assert made().reaches() == latents | prompts


def test_it_reaches_exactly_what_a_plan_wants() -> None:
    store = MemoryStore()
    for path in made().reaches():
        store.write(path, b"record")
    plan = plan_cache(MANIFEST, RECIPE, facts=FACTS, ids=IDS, store=store)
    assert plan.is_complete
    assert plan.latents_wanted + plan.prompts_wanted == len(made().reaches())


def test_splits_stay_apart() -> None:
    assert [sample.caption for sample in made().train] == ["one", "one"]
    assert [sample.caption for sample in made().heldout] == ["two"]


def test_an_index_survives_its_way_through_json() -> None:
    assert CacheIndex.model_validate_json(made().model_dump_json()) == made()


def test_indexes_and_shards_load_no_model_library() -> None:
    heavy = "{'torch', 'diffusers', 'transformers', 'safetensors', 'decord', 'av'}"
    code = (
        "import sys, cogvx.cache.index, cogvx.cache.shards; "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
