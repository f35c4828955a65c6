"""Drift from the base: diffusers' own numbers, measured once, named by all that decides it."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cogvx.cache.keys import PromptKey
from cogvx.cache.plan import Identities
from cogvx.cache.records import pack_prompt
from cogvx.errors import IntegrityError
from cogvx.evaluation.documents import Reading
from cogvx.evaluation.render import Arm
from cogvx.evaluation.suite import Suite
from cogvx.inference.batch import AdapterAtWeight
from cogvx.inference.session import Session
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.model.image_scale import image_scale_of
from cogvx.mp4 import read_mp4, write_mp4
from cogvx.store import LocalStore, MemoryStore
from cogvx.variants import read_facts
from tasks.evaluation.drift import drift_of, drift_path, scenes_of
from tasks.settings import Settings
from tasks.workbench import Workbench
from tests.evaluation.builders import suite_of
from tests.evaluation.conftest import write_adapter
from tests.fixtures.family import IMAGE_MEMBERS, MEMBERS, BaseOf, Member, pipeline_of
from tests.fixtures.training_runs import make_recipe

BASE = Arm("base")
MEMBER_2B, (MEMBER_I2V, MEMBER_15) = MEMBERS[0], IMAGE_MEMBERS
SCALES = {MEMBER_15: "raw"}
TIMESTEPS = (125, 375, 625, 875)


def bench_of(base: Path, root: Path, member: Member) -> Workbench:
    recipe = make_recipe(base, size=member.size, image_latent_scale=SCALES.get(member))
    return Workbench(
        recipe=recipe,
        settings=Settings(home=root / "home", device="cpu"),
        store=MemoryStore(),
        dataset=LocalStore(root),
        base=base,
        base_fingerprint=fingerprint(base, BASE_PARTS),
        facts=read_facts(base),
        ids=Identities(vae="0" * 64, text="1" * 64),
        warnings=(),
    )


def suite_with(bench: Workbench, root: Path, **changes: Any) -> Suite:
    """One prompt for each group; with pictures where the base starts from them."""
    prompts: list[dict[str, object]] = [
        {"id": group, "prompt": f"something {group}", "group": group}
        for group in ("domain", "trigger_free", "off_domain", "train_caption")
    ]
    if bench.facts.variant.image_to_video:
        size = bench.recipe.video.size
        for number, prompt in enumerate(prompts):
            pixels = np.random.default_rng(number).integers(0, 256, (size.height, size.width, 3))
            path = root / f"{prompt['id']}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
            named = hashlib.sha256(path.read_bytes()).hexdigest()
            prompt |= {"image": str(path), "image_sha256": named}
    return suite_of(prompts=prompts, **changes)


def keep_prompts(bench: Workbench, suite: Suite) -> None:
    """Embeddings as generation leaves them in the store: these bases have no text encoder."""
    for number, prompt in enumerate(suite.prompts):
        key = PromptKey(
            text=prompt.prompt,
            encoder_fingerprint=bench.ids.text,
            max_length=bench.facts.text_tokens,
            dtype="float32",
            batch=1,
        )
        bench.store.write(key.path, pack_prompt(key, embedding(bench, number)[0]))


def embedding(bench: Workbench, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    shape = (1, bench.facts.text_tokens, bench.facts.text_dim)
    return torch.randn(shape, generator=generator)


def videos_of(bench: Workbench, suite: Suite, root: Path) -> dict[tuple[str, int], Path]:
    """Noise in the place of the base's videos."""
    size, found = bench.recipe.video.size, {}
    for number, (prompt, seed) in enumerate(suite.shots):
        rng = np.random.default_rng(100 + number)
        path = root / f"{prompt.id}-{seed}.mp4"
        shape = (size.frames, size.height, size.width, 3)
        write_mp4(path, rng.integers(0, 256, shape, dtype=np.uint8), fps=8)
        found[prompt.id, seed] = path
    return found


class Bench:
    """A base with an adapter, a suite, and videos of it, ready to measure."""

    def __init__(self, base: Path, root: Path, member: Member) -> None:
        self.bench = bench_of(base, root, member)
        self.suite = suite_with(self.bench, root)
        keep_prompts(self.bench, self.suite)
        self.videos = videos_of(self.bench, self.suite, root)
        scale = image_scale_of(self.bench.facts.variant, SCALES.get(member))
        self.adapter = write_adapter(base, root / "adapter", seed=1, image_latent_scale=scale)
        self.opened = 0

    def open(self) -> Session:
        self.opened += 1
        return Session.open(
            self.bench.base,
            dtype="float32",
            fingerprint=self.bench.base_fingerprint,
            image_scale=self.bench.recipe.base.image_latent_scale,
        )

    def places(self, arm: Arm) -> list[str]:
        scenes = scenes_of(self.bench, self.suite)
        return [drift_path(self.bench, arm, scene) for scene in scenes]

    def measure(self, arm: Arm, **changes: Any) -> tuple[Reading, ...]:
        given = {"base_videos": self.videos, "open_session": self.open} | changes
        return drift_of(self.bench, arm, self.suite, **given)


@pytest.fixture
def bench(base_of: BaseOf, tmp_path: Path) -> Bench:
    return Bench(base_of(MEMBER_2B), tmp_path, MEMBER_2B)


def arm_of(adapter: AdapterAtWeight, weight: float = 1.0) -> Arm:
    return Arm("challenger v1", (replace(adapter, weight=weight),))


def never() -> Session:
    raise AssertionError("a model is loaded for a drift that is kept")


@pytest.mark.parametrize("member", [*MEMBERS[:2], *IMAGE_MEMBERS], ids=str)
def test_drift_is_what_diffusers_alone_gives(
    member: Member, base_of: BaseOf, tmp_path: Path
) -> None:
    ours = Bench(base_of(member), tmp_path, member)
    found = ours.measure(arm_of(ours.adapter, 0.5))
    assert [(one.metric, one.unit, one.draw) for one in found] == [
        ("base_drift", group, timestep)
        for group in ("trigger_free", "off_domain")
        for timestep in TIMESTEPS
    ]
    scene = scenes_of(ours.bench, ours.suite)[1]
    expected = by_diffusers(ours, member, number=2, key=scene.key)
    assert [one.value for one in found[4:]] == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 0


def by_diffusers(ours: Bench, member: Member, number: int, key: str) -> list[float]:
    """Drift of half the adapter on a prompt, without a line of ours."""
    pipeline = pipeline_of(ours.bench.base, member)
    prompt = ours.suite.prompts[number]
    rgb = read_mp4(ours.videos[prompt.id, 1]).rgb_fhwc
    latents = encode(pipeline, rgb) * pipeline.vae.config.scaling_factor
    if member.patch_t and latents.shape[1] % 2:
        latents = torch.cat([latents[:, :1], latents], dim=1)
    image = None
    if member.image_to_video:
        factor = 1.0 if member is MEMBER_15 else pipeline.vae.config.scaling_factor
        image = torch.zeros_like(latents)
        image[:, :1] = encode(pipeline, np.asarray(Image.open(prompt.image))[None]) * factor
    rotary = None
    if pipeline.transformer.config.use_rotary_positional_embeddings:
        rotary = pipeline._prepare_rotary_positional_embeddings(
            member.size.height, member.size.width, latents.shape[1], torch.device("cpu")
        )
    ofs = torch.full((1,), 2.0) if pipeline.transformer.config.ofs_embed_dim else None

    def predict(timestep: int) -> Tensor:
        seed = hashlib.sha256(f"cogvx/{key}/drift/{timestep}".encode()).digest()[:4]
        generator = torch.Generator().manual_seed(int.from_bytes(seed, "big"))
        noise = torch.randn(latents.shape, generator=generator)
        step = torch.tensor([timestep])
        noisy = pipeline.scheduler.add_noise(latents, noise, step)
        shown = noisy if image is None else torch.cat([noisy, image], dim=2)
        with torch.no_grad():
            return pipeline.transformer(
                hidden_states=shown,
                encoder_hidden_states=embedding(ours.bench, number),
                timestep=step,
                ofs=ofs,
                image_rotary_emb=rotary,
                return_dict=False,
            )[0]

    base = [predict(timestep) for timestep in TIMESTEPS]
    pipeline.load_lora_weights(ours.adapter.path.parent, weight_name=ours.adapter.path.name)
    pipeline.transformer.set_adapters(["default_0"], [0.5])
    return [
        float(((predict(timestep) - before) ** 2).mean())
        for timestep, before in zip(TIMESTEPS, base, strict=True)
    ]


def encode(pipeline: Any, rgb_fhwc: np.ndarray) -> Tensor:
    """Mean of the posterior, unscaled, `(b, f, c, h, w)`."""
    rgb = torch.from_numpy(rgb_fhwc.copy()).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.no_grad():
        mode: Tensor = pipeline.vae.encode(rgb).latent_dist.mode()
    return mode.permute(0, 2, 1, 3, 4)


def test_the_base_does_not_drift_and_no_model_is_loaded_to_know(bench: Bench) -> None:
    for arm in (BASE, arm_of(bench.adapter, 0.0)):
        found = bench.measure(arm, open_session=never)
        assert len(found) == 8
        assert {one.value for one in found} == {0.0}
        assert not list(bench.bench.store.entries("drift/"))


def test_drift_is_measured_once_and_lies_where_it_is_said_to(bench: Bench) -> None:
    arm = arm_of(bench.adapter)
    first = bench.measure(arm)
    assert bench.measure(arm, open_session=never) == first
    kept = {info.key for info in bench.bench.store.entries("drift/")}
    assert kept == set(bench.places(arm))
    assert len(kept) == 2


def test_a_new_prompt_costs_itself_alone(bench: Bench) -> None:
    arm, whole = arm_of(bench.adapter), bench.suite
    bench.suite = whole.model_copy(update={"prompts": whole.prompts[:2]})
    few = bench.measure(arm)
    kept = dict(bench.bench.store.objects)
    bench.suite = whole
    assert bench.measure(arm)[:4] == few
    assert kept.items() <= bench.bench.store.objects.items()


def test_a_session_is_left_as_it_was_found(bench: Bench) -> None:
    session = bench.open()
    before = bench.measure(arm_of(bench.adapter), open_session=lambda: session)
    assert session.weights == {}
    other = write_adapter(bench.bench.base, bench.bench.work / "other", seed=2)
    bench.measure(arm_of(other), open_session=lambda: session)
    for path in bench.places(arm_of(bench.adapter)):
        bench.bench.store.delete(path)
    assert bench.measure(arm_of(bench.adapter), open_session=lambda: session) == before


def test_twice_the_weight_of_a_small_adapter_drifts_four_times_as_far(bench: Bench) -> None:
    small = write_adapter(bench.bench.base, bench.bench.work / "small", seed=4, size=0.002)
    once, twice = (bench.measure(arm_of(small, weight)) for weight in (1.0, 2.0))
    ratios = [two.value / one.value for one, two in zip(once, twice, strict=True)]
    assert ratios == pytest.approx([4.0] * 8, rel=0.1)


def test_a_prompt_that_the_base_failed_to_draw_is_left_out(bench: Bench) -> None:
    del bench.videos["off_domain", 1]
    found = bench.measure(arm_of(bench.adapter))
    assert {one.unit for one in found} == {"trigger_free"}


def test_whatever_decides_the_drift_is_in_its_name(bench: Bench) -> None:
    arm, plain = arm_of(bench.adapter), bench.bench

    def name(bench_: Workbench = plain, arm_: Arm = arm, **suite: Any) -> str:
        scenes = scenes_of(bench_, bench.suite.model_copy(update=suite))
        return drift_path(bench_, arm_, scenes[0])

    others: list[Callable[[], str]] = [
        lambda: name(replace(plain, base_fingerprint="0" * 64)),
        lambda: name(arm_=arm_of(bench.adapter, 2.0)),
        lambda: name(arm_=Arm("other", (AdapterAtWeight("f" * 64, Path("file")),))),
        lambda: name(seeds=(5, 6)),
        lambda: name(prompts=(replaced(bench.suite.prompts[1], prompt="another"),)),
        lambda: name(sampling=replaced(bench.suite.sampling, steps=20)),
    ]
    assert len({name(), *(other() for other in others)}) == 1 + len(others)
    assert name(arm_=Arm("renamed", arm.adapters)) == name(name="renamed") == name()
    assert name(seeds=(1, 2, 3, 4)) == name(), "seeds that a second look adds come last"


def replaced(section: Any, **changes: object) -> Any:
    return section.model_copy(update=changes)


def test_a_drift_that_is_not_finite_is_told_and_not_kept(bench: Bench) -> None:
    huge = write_adapter(bench.bench.base, bench.bench.work / "huge", seed=5, size=1e30)
    with pytest.raises(IntegrityError, match="challenger v1 on trigger_free: the prediction at"):
        bench.measure(arm_of(huge))
    assert not list(bench.bench.store.entries("drift/"))
