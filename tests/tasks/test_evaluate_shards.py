"""Shards of an evaluation: what `generate-shard` makes of them is what the evaluation looks for."""

from pathlib import Path

import pytest
from PIL import Image

from cogvx.adapters.card import ADAPTER_FILE
from cogvx.cache.plan import Identities
from cogvx.digest import sha256_file
from cogvx.evaluation.render import Arm, proof_of_arm
from cogvx.evaluation.suite import Suite, parse_suite
from cogvx.inference.batch import AdapterAtWeight
from cogvx.inference.job import GenerateJob
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.recipe import Recipe
from cogvx.store import MemoryStore
from cogvx.variants import read_facts
from tasks.evaluation.evaluate_shards import _parts, cut_missing
from tasks.evaluation.measure import setting_of
from tasks.generation.generate_inputs import published_picture
from tasks.generation.generate_plan import PLANS
from tasks.generation.generation import prepare
from tasks.settings import Settings
from tasks.workbench import Workbench, published
from tests.adapters.toys import toy_adapter
from tests.evaluation.builders import suite_document
from tests.fixtures.family import IMAGE_MEMBERS, MEMBERS, BaseOf, Member

SCALES = {str(IMAGE_MEMBERS[1]): "raw"}


def bench_on(base: Path, member: Member, home: Path, **settings: object) -> Workbench:
    recipe = Recipe.model_validate(
        {
            "name": "toy",
            "base": {
                "path": str(base),
                "dtype": "float32",
                "image_latent_scale": SCALES.get(str(member)),
            },
            "dataset": {"uri": "clips"},
            "video": {
                "frames": member.size.frames,
                "height": member.size.height,
                "width": member.size.width,
                "fps": 8,
            },
            "lora": {"rank": 4, "alpha": 4, "allow_unusual": True},
            "train": {"steps": 200, "global_batch": 1, "micro_batch": 1, "learning_rate": 1e-4},
            "evaluation": {"suite": "suite.toml"},
        }
    )
    store = MemoryStore()
    return Workbench(
        recipe=recipe,
        settings=Settings(home=home, device="cpu", **settings),
        store=store,
        dataset=store,
        base=base,
        base_fingerprint=fingerprint(base, BASE_PARTS),
        facts=read_facts(base),
        ids=Identities(vae="0" * 64, text="1" * 64),
        warnings=(),
    )


def suite_in(folder: Path, member: Member) -> Suite:
    document = suite_document(
        sampling={
            "steps": 10,
            "guidance": 2.0,
            "sampler": "ddim",
            "dynamic_guidance": True,
            "negative_prompt": "blurry",
        },
    )
    if member.image_to_video:
        Image.new("RGB", (96, 64), "teal").save(folder / "first.png")
        for prompt in document["prompts"]:
            prompt["image"] = "first.png"
    return parse_suite(document, "suite", folder=folder)


@pytest.mark.parametrize("member", [MEMBERS[1], *IMAGE_MEMBERS], ids=str)
def test_the_videos_of_a_shard_have_the_names_that_an_evaluation_looks_for(
    member: Member, base_of: BaseOf, tmp_path: Path
) -> None:
    base = base_of(member)
    bench, suite = bench_on(base, member, tmp_path / "home"), suite_in(tmp_path, member)
    arms = [Arm("base")]
    if not member.image_to_video:  # a toy card knows no first frames
        file = toy_adapter(base, tmp_path / "adapter")
        arms.append(Arm("challenger v2", (AdapterAtWeight(sha256_file(file), file, 0.7),)))
    cuts = cut_missing(bench, arms, suite)
    assert [cut.child.name for cut in cuts] == [
        f"shard {number} of {len(arms)}, toy-{arm.name.replace(' ', '-')}"
        for number, arm in enumerate(arms, start=1)
    ]
    for cut, arm in zip(cuts, arms, strict=True):
        shard = str(cut.child.parameters["shard"])
        job = published(bench.store, PLANS, shard, kind=GenerateJob)
        pictures = published_picture(bench.store)
        ready = prepare(job, bench.settings, store=bench.store, read_image=pictures)
        made = {shot.name: shot.wanted.key(ready.engine) for shot in ready.shots}
        assert {name: key.digest for name, key in made.items()} == dict(cut.keys)
        assert len(cut.keys) == suite.videos
        for adapter in arm.adapters:
            assert bench.store.info(f"adapters/{adapter.sha256}/{ADAPTER_FILE}")
    for key in made.values():
        bench.store.write(key.path, b"a video")
    if arms[-1].adapters:
        (*_, unproved) = cut_missing(bench, arms, suite)
        assert (len(unproved.keys), unproved.is_missing) == (1, False), "its videos are there"
        proof_of_arm(arms[-1], setting_of(bench), bench.store).keep()
    assert len(cut_missing(bench, arms, suite)) == len(arms) - 1, "the last arm is complete"


def test_shards_are_of_one_arm_and_none_is_shorter_than_asked_for() -> None:
    counts = {
        (count, least): [len(part) for part in _parts([None] * count, least)]
        for count, least in ((0, 8), (5, 8), (8, 8), (15, 8), (16, 8), (30, 8), (30, 30), (3, 1))
    }
    assert counts == {
        (0, 8): [],
        (5, 8): [5],
        (8, 8): [8],
        (15, 8): [15],
        (16, 8): [8, 8],
        (30, 8): [10, 10, 10],
        (30, 30): [30],
        (3, 1): [1, 1, 1],
    }


def test_only_a_pool_is_given_several_shards_of_an_arm(base_of: BaseOf, tmp_path: Path) -> None:
    member = MEMBERS[1]
    suite = suite_in(tmp_path, member)
    asked = {"generate_deployment": "generate-shard/gpu", "generate_shard_videos": 4}
    bench = bench_on(base_of(member), member, tmp_path / "home", **asked)
    cuts = cut_missing(bench, [Arm("base")], suite)
    assert [len(cut.keys) for cut in cuts] == [5, 5]
    assert [*cuts[0].keys, *cuts[1].keys] == [
        f"{prompt.id}-seed{seed}" for prompt, seed in suite.shots
    ]
