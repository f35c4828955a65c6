"""Cut the videos that an evaluation lacks into shards for whoever generates.

Shards are plans of `generate-shard`, so that one pool of GPUs generates for people and for
evaluations; the videos lie under the names that an evaluation looks for.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cogvx.digest import digest
from cogvx.evaluation.suite import PromptConfig, Suite
from cogvx.inference.job import AskedAdapter, GenerateJob, PromptLine
from tasks.generation.enclosures import Enclosures
from tasks.generation.generate_plan import PLANS
from tasks.pools.children import Child
from tasks.workbench import Workbench

if TYPE_CHECKING:
    from cogvx.evaluation.render import Arm

Shots = Sequence[tuple[PromptConfig, int]]
"""Prompts with a seed each."""

_PICTURES = f"{PLANS}/images"
_LONGEST = 100  # of a model's part in a job's name


@dataclass(frozen=True)
class Cut:
    """One shard of one arm: the child that renders it, and its videos' keys by their names.

    `is_missing` is False where its video is there and only the proof that its adapters act is not.
    """

    child: Child
    keys: Mapping[str, str]
    is_missing: bool = True


def cut_missing(bench: Workbench, arms: "Sequence[Arm]", suite: Suite) -> tuple[Cut, ...]:
    """Shards of the videos that the store lacks: arm after arm, prompt after prompt, seed by seed.

    An arm that lacks none, and was never proved to act, has a shard of one video that is there.

    On a pool a shard has at least as many videos as the settings say, where an arm lacks so many;
    in this process there is one for each arm, as each loads the base.
    """
    from cogvx.evaluation.render import (  # noqa: PLC0415 - loads torch
        missing_shots,
        proof_of_arm,
        video_key,
    )
    from tasks.evaluation.measure import setting_of  # noqa: PLC0415

    setting, here = setting_of(bench), bench.settings
    enclosed = Enclosures(bench.store, _PICTURES)
    found: list[tuple[GenerateJob, dict[str, str], bool]] = []
    for arm in arms:
        missing = missing_shots(arm, suite, setting=setting, store=bench.store)
        unproved = not missing and proof_of_arm(arm, setting, bench.store).is_missing
        wanted = suite.shots[:1] if unproved else missing
        least = here.generate_shard_videos if here.generate_deployment else len(wanted)
        for shots in _parts(wanted, least):
            keys = {_name(*shot): video_key(arm, suite, *shot, setting).digest for shot in shots}
            found.append((_job(bench, arm, suite, shots, enclosed), keys, not unproved))
    cuts = tuple(
        Cut(_child(bench, job, f"{number} of {len(found)}"), keys, is_missing)
        for number, (job, keys, is_missing) in enumerate(found, start=1)
    )
    enclosed.put()
    return cuts


def _parts(shots: Shots, least: int) -> Iterator[Shots]:
    """Contiguous parts of nearly one length, none shorter than `least` unless all of it is."""
    count = max(len(shots) // max(least, 1), 1) if shots else 0
    for number in range(count):
        yield shots[number * len(shots) // count : (number + 1) * len(shots) // count]


def _job(
    bench: Workbench, arm: "Arm", suite: Suite, shots: Shots, enclosed: Enclosures
) -> GenerateJob:
    """A plan of `generate-shard` with nothing left open: its videos have an evaluation's keys."""
    recipe, sampling = bench.recipe, suite.sampling
    folder = Path(recipe.base.path).expanduser()
    return GenerateJob(
        name=f"{recipe.name[:_LONGEST]}-{re.sub(r'[^A-Za-z0-9]+', '-', arm.name)[:40]}",
        # workers run in folders of their own
        base=str(folder.resolve()) if folder.is_dir() else recipe.base.path,
        revision=None if folder.is_dir() else recipe.base.revision,
        fingerprint=bench.base_fingerprint,
        adapters=tuple(
            AskedAdapter(
                ref=arm.name,
                weight=adapter.weight,
                sha256=enclosed.adapter(adapter.sha256, adapter.path),
            )
            for adapter in arm.adapters
        ),
        prompts=tuple(_line(bench, prompt, seed, enclosed) for prompt, seed in shots),
        negative_prompt=sampling.negative_prompt,
        size=str(recipe.video.size),
        fps=recipe.video.fps,
        steps=sampling.steps,
        guidance=sampling.guidance,
        dynamic_guidance=sampling.dynamic_guidance,
        sampler=sampling.sampler,
        dtype=recipe.base.dtype,
        image_scale=recipe.base.image_latent_scale,
    )


def _line(bench: Workbench, prompt: PromptConfig, seed: int, enclosed: Enclosures) -> PromptLine:
    image = None
    if prompt.image is not None:
        from cogvx.inference.image import load_image  # noqa: PLC0415 - loads torch

        rgb_hwc = load_image(Path(prompt.image), bench.recipe.video.size)
        image = enclosed.picture(rgb_hwc)
    return PromptLine(prompt=prompt.prompt, seed=seed, image=image, name=_name(prompt, seed))


def _name(prompt: PromptConfig, seed: int) -> str:
    return f"{prompt.id}-seed{seed}"


def _child(bench: Workbench, job: GenerateJob, part: str) -> Child:
    shard = bench.publish(PLANS, job)
    return Child(
        name=f"shard {part}, {job.name}",
        key=digest(["evaluate", shard]),
        parameters={
            "job": job.name,
            "shard": shard,
            "part": part,
            "for_evaluation": True,
            "paid_by": bench.recipe.name,
        },
    )
