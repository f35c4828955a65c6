"""Whatever a person, a clip or a model can change changes exactly the keys whose bytes it decides.

Every setting of the recipe and every field of a clip, of the fingerprints and of a base's facts
stands in the table; one that is added later must be added here before the tests pass.
"""

import dataclasses
from typing import Any

import pytest
from pydantic import BaseModel

from cogvx.cache.plan import Identities, image_keys, latent_key, prompt_key
from cogvx.data.manifest import Clip
from cogvx.recipe import Recipe, section_kinds
from cogvx.shapes import Compression, VideoSize
from cogvx.variants import COGVIDEOX_5B, PUBLISHED, BaseFacts
from tests.cache.toys import IDS, clip, recipe

FACTS = PUBLISHED["CogVideoX-5b-I2V"]
CLIP = clip(1)

NOTHING: frozenset[str] = frozenset()
WINDOW = frozenset({"latents", "images"})
IMAGES = frozenset({"images"})
CAPTION = frozenset({"prompt"})
ALL = WINDOW | CAPTION

RECIPE: dict[str, tuple[Any, frozenset[str]]] = {
    "schema_version": (2, NOTHING),
    "name": ("other", NOTHING),
    "base.path": ("elsewhere", NOTHING),
    "base.revision": ("abc", NOTHING),
    "base.dtype": ("bfloat16", ALL),
    "dataset.uri": ("elsewhere", NOTHING),
    "dataset.heldout_share": (0.5, NOTHING),
    "dataset.min_heldout": (9, NOTHING),
    "dataset.max_rejected_share": (0.1, NOTHING),
    "dataset.min_motion": (3.0, NOTHING),
    "dataset.min_brightness": (3.0, NOTHING),
    "dataset.min_kept_share": (0.9, NOTHING),
    # these decide which windows there are; a window says itself what it is
    "video.frames": (17, NOTHING),
    "video.height": (64, NOTHING),
    "video.width": (64, NOTHING),
    "video.fps": (16, WINDOW),
    "video.buckets": (("17x48x48",), NOTHING),
    "video.windows": (3, NOTHING),
    "video.crop": ("random", NOTHING),
    "video.crop_seed": (5, NOTHING),
    "video.flip": (True, NOTHING),
    "cache.vae_tiling": ("on", WINDOW),
    "cache.prompt_batch": (3, CAPTION),
    "cache.image_draws": (3, IMAGES),
    "base.image_latent_scale": ("raw", NOTHING),
    "lora.rank": (64, NOTHING),
    "lora.alpha": (32, NOTHING),
    "lora.targets": (("to_q",), NOTHING),
    "lora.allow_unusual": (True, NOTHING),
    "train.steps": (11, NOTHING),
    "train.global_batch": (2, NOTHING),
    "train.micro_batch": (2, NOTHING),
    "train.processes": (2, NOTHING),
    "train.learning_rate": (1e-3, NOTHING),
    "train.lr_schedule": ("cosine", NOTHING),
    "train.warmup_steps": (3, NOTHING),
    "train.weight_decay": (0.1, NOTHING),
    "train.max_grad_norm": (2.0, NOTHING),
    "train.caption_dropout": (0.1, NOTHING),
    "train.optimiser": ("prodigy", NOTHING),
    "train.ema_decay": (0.9, NOTHING),
    "train.timesteps": ("stratified", NOTHING),
    "train.min_snr_gamma": (5.0, NOTHING),
    "train.caption_dropout_with": ("zeros", NOTHING),
    "train.image_dropout": (0.5, NOTHING),
    "train.early_stop_patience": (3, NOTHING),
    "train.max_hours": (1.0, NOTHING),
    "train.max_skipped": (1, NOTHING),
    "train.fork_of": ("a" * 64, NOTHING),
    "compute.preset": ("fast", NOTHING),
    "compute.checkpointing": ("none", NOTHING),
    "compute.compile": (True, NOTHING),
    "compute.base_weights": ("int8", NOTHING),
    "compute.attention": ("math", NOTHING),
    "compute.prefetch": (1, NOTHING),
    "train.checkpoint_every": (5, NOTHING),
    "train.keep_checkpoints": (5, NOTHING),
    "train.heldout_every": (5, NOTHING),
    "train.heldout_strata": (5, NOTHING),
    "train.heldout_clips": (5, NOTHING),
    "train.log_every": (5, NOTHING),
    "train.seed": (5, NOTHING),
    "evaluation.suite": ("other.toml", NOTHING),
    "evaluation.auto_promote": (True, NOTHING),
    "evaluation.sweep": ({"suite": "dev.toml", "weights": [0.5]}, NOTHING),
    "evaluation.encoders": ({"clip": f"openai/clip-vit-base-patch32@{'0' * 40}"}, NOTHING),
}
CLIPS: dict[str, tuple[Any, frozenset[str]]] = {
    "key": ("elsewhere.mp4", NOTHING),
    "sha256": ("f" * 64, WINDOW),
    "caption": ("a blue square", CAPTION),
    "facts": (CLIP.facts.model_copy(update={"frames": 99}), NOTHING),
    "size": (VideoSize(17, 48, 48), WINDOW),
    "start_frame": (5, WINDOW),
    "split": ("heldout", NOTHING),
    "flip": (True, WINDOW),
    "crop": ("random-0", WINDOW),
    "tokens": (7, NOTHING),
}
IDENTITIES: dict[str, tuple[Any, frozenset[str]]] = {
    "vae": ("c" * 64, WINDOW),
    "text": ("c" * 64, CAPTION),
    "tiled": ((CLIP.size,), WINDOW),
}
BASES: dict[str, tuple[Any, frozenset[str]]] = {
    "variant": (COGVIDEOX_5B, IMAGES),
    "layers": (1, NOTHING),
    "heads": (1, NOTHING),
    "head_dim": (1, NOTHING),
    "time_dim": (1, NOTHING),
    "in_channels": (1, NOTHING),
    "out_channels": (1, NOTHING),
    "patch": (1, NOTHING),
    "patch_t": (2, NOTHING),
    "text_tokens": (16, CAPTION),
    "text_dim": (1, NOTHING),  # what the encoder gives, so its fingerprint says it
    "sample_size": (VideoSize(9, 48, 48), NOTHING),
    "compression": (Compression(1, 1), NOTHING),  # of the VAE, and so are the next two
    "latent_channels": (1, NOTHING),
    "scaling_factor": (0.1, NOTHING),
    "snr_shift_scale": (9.0, NOTHING),
}


def names(
    window: Clip = CLIP,
    with_recipe: Recipe | None = None,
    ids: Identities = IDS,
    facts: BaseFacts = FACTS,
) -> dict[str, Any]:
    """The names of a window's records of each kind."""
    chosen = with_recipe or recipe()
    images = image_keys(window, chosen, facts=facts, ids=ids)
    return {
        "latents": latent_key(window, chosen, ids).digest,
        "images": tuple(image.digest for image in images),
        "prompt": prompt_key(window.caption, chosen, ids, facts).digest,
    }


def changed(**ingredients: Any) -> set[str]:
    before, after = names(), names(**ingredients)
    return {kind for kind in before if before[kind] != after[kind]}


def settings_of(kind: type[BaseModel]) -> set[str]:
    """Every setting, those inside sections as section.setting."""
    sections = section_kinds() if kind is Recipe else {}
    plain = {name for name in kind.model_fields if name not in sections}
    return plain.union(
        *(
            {f"{name}.{field}" for field in section.model_fields}
            for name, section in sections.items()
        )
    )


def test_every_ingredient_there_is_stands_in_a_table() -> None:
    assert set(RECIPE) == settings_of(Recipe)
    assert set(CLIPS) == settings_of(Clip)
    assert set(IDENTITIES) == {field.name for field in dataclasses.fields(Identities)}
    assert set(BASES) == {field.name for field in dataclasses.fields(BaseFacts)}


@pytest.mark.parametrize("path", RECIPE)
def test_a_setting_changes_the_keys_whose_bytes_it_decides_and_no_other(path: str) -> None:
    value, kinds = RECIPE[path]
    plain = recipe()
    section, _, field = path.rpartition(".")
    if section:
        before = getattr(plain, section)
        update = {section: before.model_copy(update={field: value})}
        assert getattr(before, field) != value
    else:
        update = {field: value}
        assert getattr(plain, field) != value
    assert changed(with_recipe=plain.model_copy(update=update)) == kinds


@pytest.mark.parametrize("field", CLIPS)
def test_a_fact_of_a_clip_changes_the_keys_whose_bytes_it_decides_and_no_other(field: str) -> None:
    value, kinds = CLIPS[field]
    assert getattr(CLIP, field) != value
    assert changed(window=CLIP.model_copy(update={field: value})) == kinds


@pytest.mark.parametrize("field", IDENTITIES)
def test_a_fingerprint_changes_the_keys_whose_bytes_it_decides_and_no_other(field: str) -> None:
    value, kinds = IDENTITIES[field]
    assert changed(ids=dataclasses.replace(IDS, **{field: value})) == kinds


@pytest.mark.parametrize("field", BASES)
def test_a_fact_of_the_base_changes_the_keys_whose_bytes_it_decides_and_no_other(
    field: str,
) -> None:
    value, kinds = BASES[field]
    assert getattr(FACTS, field) != value
    assert changed(facts=dataclasses.replace(FACTS, **{field: value})) == kinds
