"""Run folders for tests: the toy base, records of random posteriors and captions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from cogvx.cache.keys import ImageKey, LatentKey, PromptKey
from cogvx.cache.records import pack_image, pack_latents, pack_prompt
from cogvx.files import read_document, write_bytes, write_document
from cogvx.recipe import Recipe
from cogvx.shapes import LatentSize, VideoSize
from cogvx.training.batch import Batches
from cogvx.training.dataset import Records
from cogvx.training.objective import Objective
from cogvx.training.prepare import Trainer, prepare
from cogvx.training.run import RunFolder, RunSpec, Sample
from cogvx.training.stop import Stop
from cogvx.variants import BaseFacts, read_facts

DEFAULTS = {
    "steps": 6,
    "global_batch": 2,
    "micro_batch": 1,
    "warmup_steps": 0,
    "learning_rate": 1e-3,
    "checkpoint_every": 2,
    "heldout_every": 4,
    "heldout_strata": 2,
    "log_every": 2,
    "caption_dropout": 0.2,
    "seed": 7,
}
IMAGE_DRAWS = 3


def make_recipe(base: Path, **train: Any) -> Recipe:
    """A recipe whose training section has `train`, but for what belongs to other sections."""
    size: VideoSize = train.pop("size", VideoSize(9, 48, 48))
    scale = train.pop("image_latent_scale", None)
    return Recipe.model_validate(
        {
            "name": "toy",
            "base": {
                "path": str(base),
                "dtype": train.pop("dtype", "float32"),
                "image_latent_scale": scale,
            },
            "dataset": {"uri": "file:///nowhere"},
            "video": {
                "frames": size.frames,
                "height": size.height,
                "width": size.width,
                "fps": 8,
                "buckets": train.pop("buckets", ()),
            },
            "lora": {"rank": 4, "alpha": 2, "allow_unusual": True},
            "compute": train.pop("compute", {"checkpointing": "none"}),
            "train": {**DEFAULTS, **train},
            "evaluation": {"suite": "none.toml"},
        }
    )


def make_run(root: Path, base: Path, *, clips: int = 4, heldout: int = 2, **train: Any) -> Path:
    """Write run.json and records below `root`."""
    recipe, facts = make_recipe(base, **train), read_facts(base)
    folder = RunFolder(root)
    samples = tuple(make_sample(folder, recipe, facts, number) for number in range(clips + heldout))
    spec = RunSpec(
        run=f"run-{recipe.training_digest()}",
        recipe=recipe,
        manifest="manifest",
        base_folder=str(base),
        base_fingerprint="fingerprint",
        code_version="0",
        train=samples[:clips],
        heldout=samples[clips:],
        empty_prompt=make_prompt(folder, facts, ""),
        warnings=("the clips are few",),
    )
    write_document(folder.spec, spec)
    return root


def make_sample(folder: RunFolder, recipe: Recipe, facts: BaseFacts, number: int) -> Sample:
    """Clip `number`, of the recipe's sizes in turn."""
    size = recipe.video.sizes[number % len(recipe.video.sizes)]
    latent = facts.compression.latent(size)
    moments_cfhw = make_moments(facts, latent, seed=number)
    key = LatentKey(
        source_sha256=f"{number:064x}",
        start_frame=0,
        fps=8,
        size=size,
        crop="centre",
        flip=False,
        vae_fingerprint="vae",
        dtype="float32",
        tiling=False,
    )
    write_bytes(folder.record(key.digest), pack_latents(key, moments_cfhw))
    caption = f"clip {number}"
    return Sample(
        clip=f"{number}.mp4",
        caption=caption,
        latents=key.digest,
        prompt=make_prompt(folder, facts, caption),
        size=size,
        images=make_images(folder, key, facts) if facts.variant.image_to_video else (),
    )


def make_images(folder: RunFolder, window: LatentKey, facts: BaseFacts) -> tuple[str, ...]:
    """Noised first frames of a window."""
    latent = replace(facts.compression.latent(window.size), frames=1)
    keys = [ImageKey(window, draw) for draw in range(IMAGE_DRAWS)]
    for key in keys:
        moments_cfhw = make_moments(facts, latent, seed=int(key.digest[:8], 16))
        write_bytes(folder.record(key.digest), pack_image(key, moments_cfhw))
    return tuple(key.digest for key in keys)


def make_moments(facts: BaseFacts, latent: LatentSize, *, seed: int) -> Tensor:
    """A posterior: random means, small variances."""
    shape = (facts.latent_channels, latent.frames, latent.height, latent.width)
    mean_cfhw = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return torch.cat([mean_cfhw, torch.full(shape, -6.0)])


def make_prompt(folder: RunFolder, facts: BaseFacts, caption: str) -> str:
    generator = torch.Generator().manual_seed(sum(caption.encode()))
    embedding_sd = torch.randn((facts.text_tokens, facts.text_dim), generator=generator)
    key = PromptKey(
        text=caption,
        encoder_fingerprint="t5",
        max_length=facts.text_tokens,
        dtype="float32",
        batch=1,
    )
    write_bytes(folder.record(key.digest), pack_prompt(key, embedding_sd))
    return key.digest


def open_trainer(root: Path, stop: Stop | None = None) -> Trainer:
    """The trainer of a run folder in this process, on the CPU."""
    folder = RunFolder(root)
    spec = read_document(folder.spec, RunSpec)
    return prepare(folder, spec, accelerator=Accelerator(cpu=True), stop=stop or Stop())


def batches_of(root: Path) -> Batches:
    """The batches of a run folder."""
    folder = RunFolder(root)
    spec = folder.read_spec()
    return Batches(
        records=Records(folder.records),
        samples=spec.train,
        empty_prompt=spec.empty_prompt,
        objective=Objective.of(
            Path(spec.base_folder),
            image_scale=spec.recipe.base.image_latent_scale,
            min_snr_gamma=spec.recipe.train.min_snr_gamma,
        ),
        train=spec.recipe.train,
    )


def adapter_bits(root: Path) -> bytes:
    return RunFolder(root).adapter_file.read_bytes()
