"""Plan what a job makes: pin everything that is open, claim its folder, cut what is missing.

What workers need that lies on this machine alone, adapters and pictures, goes into the store.
"""

from dataclasses import dataclass
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from cogvx.digest import canonical_json, digest
from cogvx.errors import ConfigError
from cogvx.inference.job import AskedAdapter, GenerateJob, PromptLine
from cogvx.inference.shots import Shot
from cogvx.store import ObjectStore, require_writable
from tasks.clients.stores import open_record_store
from tasks.generation.generate_documents import IndexLine
from tasks.generation.generate_inputs import publish_picture, read_inputs
from tasks.generation.generation import Ready, prepare
from tasks.pools.children import Child
from tasks.pools.retries import RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.registry.adapter_refs import adapter_key
from tasks.settings import settings
from tasks.workbench import publish, read_stored

PLANS = "plans"


@dataclass(frozen=True)
class VideoWork:
    """A pinned job, its videos, and the shards that make those that are not there yet."""

    job: GenerateJob
    videos: tuple[IndexLine, ...]
    shards: tuple[Child, ...]


@task(
    name="plan videos",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def plan_videos(job: GenerateJob) -> VideoWork:
    """Check everything, pin it, put what workers need into the store, and cut what is missing.

    Raises:
        ConfigError: With every problem; or another job has this name.
        IntegrityError: An adapter was trained on another base.
    """
    here = settings()
    store = open_record_store(here)
    require_writable(store)
    job, read_image = read_inputs(job, here)
    ready = prepare(job, here, read_image=read_image)
    pinned = _pin(ready, store)
    _claim(pinned, store)
    videos = tuple(_line(shot, ready) for shot in ready.shots)
    there = {info.key for info in store.entries(f"{folder_of(job.name)}/videos/")}
    missing = {line.name for line in videos if video_path(job.name, line.name) not in there}
    stems = {shot.stem for shot in ready.shots if shot.name in missing}
    at_once = here.generate_shard_videos if here.generate_deployment else len(ready.shots)
    shards = _cut(pinned, stems, at_once)
    children = [
        _child(pinned, publish(store, PLANS, shard), f"{number} of {len(shards)}")
        for number, shard in enumerate(shards, start=1)
    ]
    # After the plans, which keep from pruning what is there.
    for found in ready.adapters:
        if store.info(adapter_key(found.sha256)) is None:
            store.upload(found.path, adapter_key(found.sha256))
    return VideoWork(job=pinned, videos=videos, shards=tuple(children))


def _pin(ready: Ready, store: ObjectStore) -> GenerateJob:
    """The same job with nothing left open: another machine, or another day, makes the same."""
    lines = {}
    pictures = f"{folder_of(ready.job.name)}/images"
    for shot in ready.shots:
        request = shot.wanted.request
        image = request.image_hwc
        lines[shot.stem] = PromptLine(
            prompt=request.prompt,
            seed=request.seed,
            size=str(request.size),
            image=None if image is None else publish_picture(image, pictures, store),
            negative_prompt=request.negative_prompt,
            name=shot.stem,
        )
    first = ready.shots[0].wanted.request
    folder = Path(ready.base.path).expanduser()
    changes = {
        # workers run in folders of their own
        "base": str(folder.resolve()) if folder.is_dir() else ready.base.path,
        "revision": None if folder.is_dir() else ready.base.revision,
        "fingerprint": ready.base.fingerprint,
        "adapters": tuple(
            AskedAdapter(ref=found.name, weight=found.weight, sha256=found.sha256)
            for found in ready.adapters
        ),
        "prompts": tuple(lines.values()),
        "image": None,
        "size": None,
        "fps": first.fps,
        "steps": first.sampling.steps,
        "guidance": first.sampling.guidance,
        "sampler": first.sampling.sampler,
        "dtype": ready.engine.dtype,
        "image_scale": ready.engine.image_scale,
    }
    return ready.job.model_copy(update=changes)


def _claim(pinned: GenerateJob, store: ObjectStore) -> None:
    """Take the folder for this job, or find it taken for exactly this.

    Raises:
        ConfigError: It has another job.
    """
    key = f"{folder_of(pinned.name)}/job.json"
    if store.create(key, canonical_json(pinned)):
        return
    if digest(read_stored(store, key, GenerateJob)) != digest(pinned):
        raise ConfigError(
            f"{key} in {store.url} is of another job: its base, adapters, prompts or settings "
            "differ; give this one another name"
        )


def _cut(pinned: GenerateJob, stems: set[str], at_once: int) -> list[GenerateJob]:
    """Parts of a job with about so many videos each; lines that are complete are left out."""
    lines = [line for line in pinned.prompts if line.name in stems]
    step = max(at_once // max(len(pinned.scales), 1), 1)
    return [
        pinned.model_copy(update={"prompts": tuple(lines[start : start + step])})
        for start in range(0, len(lines), step)
    ]


def _child(pinned: GenerateJob, shard: str, part: str) -> Child:
    parameters = {"job": pinned.name, "shard": shard, "part": part}
    return Child(name=f"shard {part}", key=digest(["generate", shard]), parameters=parameters)


def _line(shot: Shot, ready: Ready) -> IndexLine:
    request = shot.wanted.request
    return IndexLine(
        name=shot.name,
        file=f"videos/{shot.name}.mp4",
        video=shot.wanted.key(ready.engine).digest,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=request.seed,
        scale=shot.scale,
        size=str(request.size),
    )


def folder_of(name: str) -> str:
    """Where everything of a job lies in the store."""
    return f"generated/{name}"


def video_path(name: str, video: str) -> str:
    """Where one of its videos lies."""
    return f"{folder_of(name)}/videos/{video}.mp4"
