"""Generate the videos of a document, shard by shard, into a folder of the store.

The folder generated/<name>/ has job.json, which pins base, adapters and every video; the videos,
each with what made it; and at the end index.jsonl and a page. A killed run goes on with the next
video: those that the store has under their content's name are copied, not made again.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from cogvx.errors import IntegrityError
from cogvx.evaluation.proof import Proof, proof_of
from cogvx.inference.choices import used_adapters
from cogvx.inference.job import GenerateJob
from cogvx.inference.provenance import Provenance, describe_video, write_provenance
from cogvx.inference.request import Weights
from cogvx.inference.shots import Shot
from cogvx.pages.generated import Shown, render_generated
from cogvx.store import ObjectStore
from tasks.clients.slots import gpu_slots
from tasks.clients.stores import kept_on_disk, open_record_store
from tasks.generation.generate_documents import (
    FailedVideo,
    GenerateReport,
    IndexLine,
    VideoShardReport,
)
from tasks.generation.generate_inputs import published_picture
from tasks.generation.generate_plan import PLANS, VideoWork, folder_of, video_path
from tasks.generation.generation import Ready, prepare
from tasks.pages.progress import Progress
from tasks.pages.shown import shown
from tasks.pools.afar import elsewhere, leave
from tasks.pools.children import Ended
from tasks.pools.dispatch import require_all
from tasks.pools.fan_out import Elsewhere
from tasks.pools.metering import metered
from tasks.pools.retries import RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.settings import settings
from tasks.workbench import code_version, device_of, published, put

if TYPE_CHECKING:
    from cogvx.inference.batch import AdapterAtWeight
    from cogvx.inference.session import Session

logger = logging.getLogger(__name__)


@task(
    name="generate videos",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def generate_videos(
    shard: str, part: str, *, for_evaluation: bool = False, paid_by: str = ""
) -> VideoShardReport:
    """Make those videos of a published shard that are not there yet.

    For an evaluation it is proved first that the adapters act, and the job gets no folder: videos
    are looked for under their content's names alone. `paid_by` is the model whose costs they are.

    Raises:
        ConfigError: There are no such GPU slots as the settings name.
        IntegrityError: The shard is damaged, or the base of this machine is another one; or the
            adapters of an evaluation have no effect.
    """
    from cogvx.inference.batch import (  # noqa: PLC0415 - loads the codecs
        SILENT,
        Failed,
        Hooks,
        try_mix,
        try_videos,
    )

    here = settings()
    store = open_record_store(here)
    near = kept_on_disk(store, here)
    job = published(store, PLANS, shard, kind=GenerateJob)
    ready = prepare(job, here, store=store, read_image=published_picture(store))

    def place(shot: Shot) -> str:
        """Where a video lies when it is finished."""
        key = shot.wanted.key(ready.engine)
        return key.path if for_evaluation else video_path(job.name, shot.name)

    left = [shot for shot in ready.shots if store.info(place(shot)) is None]
    suffix = "" if part == "1 of 1" else f" of shard {part}"
    progress = Progress(f"generate videos{suffix}", "videos", logger)
    failed = []

    def open_session() -> "Session":
        return ready.open_session(device_of(here), near)

    proof = _proof_of(ready, store) if for_evaluation else None
    hooks = Hooks(videos=progress, mix=SILENT.mix if proof is None else _prover(ready, proof))
    with gpu_slots(here, 1), metered(store, "generate", model=paid_by) as meter:
        if proof is not None and not left and proof.is_missing:
            try_mix(open_session, _mix_of(ready), engine=ready.engine, hooks=hooks)
        videos = try_videos(
            open_session,
            [shot.wanted for shot in left],
            engine=ready.engine,
            store=near,
            work=here.work / "videos",
            hooks=hooks,
        )
        for video in videos:
            shot = left[video.number]
            if isinstance(video, Failed):
                logger.error("%s failed: %s", shot.name, video.error)
                failed.append(FailedVideo(name=shot.name, why=str(video.error)))
            elif not for_evaluation:
                _deliver(video.path, shot, ready, store, here.work)
        meter.made = len(left) - len(failed)
    return meter.on(
        VideoShardReport(wanted=len(ready.shots), made=meter.made, failed=tuple(failed))
    )


def videos_elsewhere() -> Elsewhere[VideoShardReport] | None:
    """Where videos are generated, if the settings do not leave it to this process."""
    here = settings()
    return elsewhere(here.generate_deployment, VideoShardReport, open_record_store(here), here)


def leave_video_report(report: VideoShardReport) -> VideoShardReport:
    """Keep a shard's report where whoever started this run from afar reads it."""
    return leave(open_record_store(settings()), report)


@task(name="settle videos", cache_policy=NO_CACHE)
def settle_videos(work: VideoWork, ended: Sequence[Ended[VideoShardReport]]) -> GenerateReport:
    """Write the index and the page of what there is now, and say what is not.

    Raises:
        CogvxError: Shards failed; what was made is kept and listed.
        IntegrityError: Not one video could be made.
    """
    here = settings()
    store = open_record_store(here)
    name, folder = work.job.name, folder_of(work.job.name)
    failed = {one.name: one.why for end in ended if end.report for one in end.report.failed}
    there = {info.key for info in store.entries(f"{folder}/videos/")}
    lines = [_settled(line, name, there, failed) for line in work.videos]
    text = "".join(json.dumps(line.model_dump(mode="json")) + "\n" for line in lines)
    put(store, f"{folder}/index.jsonl", text.encode())
    page = render_generated(name, [_shown(line) for line in lines])
    put(store, f"{folder}/index.html", page.encode())
    rows = [{"video": line.name, "why not": line.why} for line in lines if line.why]
    if rows:
        with shown("videos that were not made"):
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


def _mix_of(ready: Ready) -> "tuple[AdapterAtWeight, ...]":
    """The adapters of an evaluation's shard, which is of one arm."""
    return ready.shots[0].wanted.adapters


def _proof_of(ready: Ready, store: ObjectStore) -> Proof:
    mix = ((adapter.sha256, adapter.weight) for adapter in _mix_of(ready))
    return proof_of(mix, ready.engine, store=store)


def _prover(ready: Ready, proof: Proof) -> "Callable[[Session, Weights], None]":
    """What is asked of an arm's adapters before they are used, and kept when it holds."""
    from cogvx.evaluation.canary import require_effect  # noqa: PLC0415 - loads torch

    arm = " and ".join(found.name for found in ready.adapters)

    def prove(session: "Session", weights: Weights) -> None:
        require_effect(session, weights, arm)
        proof.keep()

    return prove


def _deliver(source: Path, shot: Shot, ready: Ready, store: ObjectStore, work: Path) -> None:
    """Put a video where people find it, saying what made it."""
    aside = work / "labelled" / f"{ready.job.name}-{shot.name}.mp4"
    write_provenance(source, aside, _provenance(shot, ready))
    store.upload(aside, video_path(ready.job.name, shot.name))
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


def _settled(line: IndexLine, name: str, there: set[str], failed: dict[str, str]) -> IndexLine:
    if video_path(name, line.name) in there:
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
