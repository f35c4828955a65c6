"""Generate the videos of a document, shard by shard, into a folder of the store.

The folder generated/<name>/ has job.json, which pins base, adapters and every video; the videos,
each with what made it; and at the end index.jsonl and a page. A killed run goes on with the next
video: those that the store has under their content's name are copied, not made again.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext

from cogvx.digest import canonical_json, digest
from cogvx.errors import ConfigError, IntegrityError
from cogvx.inference.job import AskedAdapter, GenerateJob, PromptLine
from cogvx.inference.provenance import Provenance, describe_video, write_provenance
from cogvx.inference.shots import Shot, used_adapters
from cogvx.pages.generated import Shown, render_generated
from cogvx.store import ObjectStore, require_writable
from tasks.children import Child, Ended
from tasks.clients.stores import kept_on_disk, open_record_store
from tasks.dispatch import require_all
from tasks.fan_out import Elsewhere
from tasks.generate_documents import FailedVideo, GenerateReport, IndexLine, VideoShardReport
from tasks.generate_inputs import publish_picture, published_picture, read_inputs
from tasks.generation import Ready, adapter_key, prepare
from tasks.progress import Progress
from tasks.retries import RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.settings import settings
from tasks.workbench import code_version, device_of, publish, published, put, read_stored

logger = logging.getLogger(__name__)

_PLANS = "plans"
_REPORTS = "shards"


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
    for found in ready.adapters:
        if store.info(adapter_key(found.sha256)) is None:
            store.upload(found.path, adapter_key(found.sha256))
    videos = tuple(_line(shot, ready) for shot in ready.shots)
    there = {info.key for info in store.entries(f"{_folder(job.name)}/videos/")}
    missing = {line.name for line in videos if _key(job.name, line.name) not in there}
    stems = {shot.stem for shot in ready.shots if shot.name in missing}
    at_once = here.generate_shard_videos if here.generate_deployment else len(ready.shots)
    shards = _cut(pinned, stems, at_once)
    children = (
        _child(pinned, publish(store, _PLANS, shard), f"{number} of {len(shards)}")
        for number, shard in enumerate(shards, start=1)
    )
    return VideoWork(job=pinned, videos=videos, shards=tuple(children))


@task(
    name="generate videos",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def generate_videos(shard: str, part: str) -> VideoShardReport:
    """Make those videos of a published shard that are not there yet.

    Raises:
        IntegrityError: The shard is damaged, or the base of this machine is another one.
    """
    from cogvx.inference.batch import Failed, Hooks, try_videos  # noqa: PLC0415 - loads the codecs

    here = settings()
    store = open_record_store(here)
    job = published(store, _PLANS, shard, kind=GenerateJob)
    ready = prepare(job, here, store=store, read_image=published_picture(store))
    left = [shot for shot in ready.shots if store.info(_key(job.name, shot.name)) is None]
    suffix = "" if part == "1 of 1" else f" of shard {part}"
    progress = Progress(f"generate videos{suffix}", "videos", logger)
    failed = []
    videos = try_videos(
        lambda: ready.open_session(device_of(here)),
        [shot.wanted for shot in left],
        engine=ready.engine,
        store=kept_on_disk(store, here),
        work=here.work / "videos",
        hooks=Hooks(videos=progress),
    )
    for video in videos:
        shot = left[video.number]
        if isinstance(video, Failed):
            logger.error("%s failed: %s", shot.name, video.error)
            failed.append(FailedVideo(name=shot.name, why=str(video.error)))
        else:
            _deliver(video.path, shot, ready, store, here.work)
    return VideoShardReport(
        wanted=len(ready.shots), made=len(left) - len(failed), failed=tuple(failed)
    )


def videos_elsewhere() -> Elsewhere[VideoShardReport] | None:
    """Where videos are generated, if the settings do not leave it to this process."""
    here = settings()
    if not here.generate_deployment:
        return None
    store = open_record_store(here)
    return Elsewhere(
        deployment=here.generate_deployment,
        report=lambda run: read_stored(store, f"{_REPORTS}/{run}.json", VideoShardReport),
        patience_seconds=here.worker_patience_seconds,
    )


def leave_video_report(report: VideoShardReport) -> VideoShardReport:
    """Keep a shard's report in the store, where whoever started this run from afar reads it."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is not None and run.deployment_id is not None:
        store = open_record_store(settings())
        store.write(f"{_REPORTS}/{run.id}.json", canonical_json(report))
    return report


@task(name="settle videos", cache_policy=NO_CACHE)
def settle_videos(work: VideoWork, ended: Sequence[Ended[VideoShardReport]]) -> GenerateReport:
    """Write the index and the page of what there is now, and say what is not.

    Raises:
        CogvxError: Shards failed; what was made is kept and listed.
        IntegrityError: Not one video could be made.
    """
    here = settings()
    store = open_record_store(here)
    name, folder = work.job.name, _folder(work.job.name)
    failed = {one.name: one.why for end in ended if end.report for one in end.report.failed}
    there = {info.key for info in store.entries(f"{folder}/videos/")}
    lines = [_settled(line, name, there, failed) for line in work.videos]
    text = "".join(json.dumps(line.model_dump(mode="json")) + "\n" for line in lines)
    put(store, f"{folder}/index.jsonl", text.encode())
    page = render_generated(name, [_shown(line) for line in lines])
    put(store, f"{folder}/index.html", page.encode())
    rows = [{"video": line.name, "why not": line.why} for line in lines if line.why]
    if rows:
        create_table_artifact(rows, key="generate-failed", description=f"Not made of {name}")
    made = sum(report.made for report in require_all(ended))
    if lines and len(failed) == len(lines):
        raise IntegrityError(f"not one video of {name} could be made: {lines[0].why}")
    return GenerateReport(
        name=name,
        folder=f"{store.url}/{folder}",
        page=f"{store.url}/{folder}/index.html",
        videos=len(lines),
        made=made,
        failed=tuple(FailedVideo(name=line.name, why=line.why) for line in lines if line.why),
    )


def _pin(ready: Ready, store: ObjectStore) -> GenerateJob:
    """The same job with nothing left open: another machine, or another day, makes the same."""
    lines = {}
    pictures = f"{_folder(ready.job.name)}/images"
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
        "revision": ready.base.revision,
        "fingerprint": ready.base.fingerprint,
        "adapters": tuple(
            AskedAdapter(ref=found.name, weight=found.weight, sha256=found.sha256)
            for found in ready.adapters
        ),
        "prompts": tuple(lines.values()),
        "image": None,
        "size": None,
        "fps": first.fps,
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
    key = f"{_folder(pinned.name)}/job.json"
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


def _deliver(source: Path, shot: Shot, ready: Ready, store: ObjectStore, work: Path) -> None:
    """Put a video where people find it, saying what made it."""
    aside = work / "labelled" / f"{ready.job.name}-{shot.name}.mp4"
    write_provenance(source, aside, _provenance(shot, ready))
    store.upload(aside, _key(ready.job.name, shot.name))
    aside.unlink()


def _provenance(shot: Shot, ready: Ready) -> Provenance:
    return describe_video(
        shot.wanted.request,
        shot.wanted.key(ready.engine),
        base=ready.base,
        adapters=used_adapters(ready.adapters, shot.scale),
        code=code_version(),
        with_prompt=ready.job.with_prompt,
    )


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


def _settled(line: IndexLine, name: str, there: set[str], failed: dict[str, str]) -> IndexLine:
    if _key(name, line.name) in there:
        return line
    why = failed.get(line.name, "its shard failed; run the job again")
    return line.model_copy(update={"file": None, "why": why})


def _shown(line: IndexLine) -> Shown:
    return Shown(
        name=line.name,
        file=line.file,
        text=line.prompt,
        facts=f"seed {line.seed}, scale {line.scale:g}, {line.size}",
        why=line.why,
    )


def _folder(name: str) -> str:
    return f"generated/{name}"


def _key(name: str, video: str) -> str:
    return f"{_folder(name)}/videos/{video}.mp4"
