"""A dataset at this moment as a manifest: found, probed, screened, split.

Bad clips are set aside with their reason and counted; too many of them stop the run.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from cogvx.data.ledger import Ledger, Probed
from cogvx.data.look import look
from cogvx.data.manifest import Clip, Fault, Manifest, Rejected
from cogvx.data.probe import describe, read_track
from cogvx.data.scratch import scratch_folder
from cogvx.data.screen import Screen
from cogvx.data.sources import CaptionedClip, find_clips
from cogvx.data.split import choose_heldout
from cogvx.data.windows import Bucket, window_clips
from cogvx.digest import sha256_file
from cogvx.errors import DataError, IntegrityError
from cogvx.recipe_sections import DatasetConfig, VideoConfig
from cogvx.store import ObjectInfo, ObjectStore, reached

__all__ = ["Ledger", "TooManyRejected", "ingest"]

Progress = Callable[[int, int], None]
CountTokens = Callable[[str], int]

# Fetching waits for the network and probing for the disk.
_PROBERS = 8
# The ledger is written whole, so the larger the dataset, the more looks lie between two saves.
_SAVE_EVERY, _SAVES = 500, 50
_EXAMPLES = 5


class TooManyRejected(DataError):  # noqa: N818 - what happened, not what went wrong
    """The recipe allows fewer; `rejected` has all of them, the message a few."""

    def __init__(self, message: str, rejected: Sequence[Rejected]) -> None:
        """`rejected` in the order of their keys."""
        super().__init__(message)
        self.rejected = tuple(rejected)


@dataclass(frozen=True)
class _Usable:
    clip: CaptionedClip
    probed: Probed
    bucket: Bucket


def ingest(
    dataset: ObjectStore,
    *,
    config: DatasetConfig,
    video: VideoConfig,
    ledger: Ledger,
    work: Path,
    on_progress: Progress,
    count_tokens: CountTokens | None = None,
) -> Manifest:
    """Find, probe, screen and split the clips of a dataset.

    Clips and captions that the ledger knows, by key, size and stamp, are not fetched. The ledger is
    saved on the way and at the end, so an interrupted call loses little.

    Args:
        dataset: The store rooted at the dataset.
        config: Says how many clips are held out, what screening asks of a clip, and how many may
            be rejected.
        video: The sizes of which every clip must be able to give one, and how windows are taken.
        ledger: What is known of this dataset's clips.
        work: A folder for clips on their way; nothing is left there.
        on_progress: Called with the clips looked at and their number.
        count_tokens: Counts the tokens of a caption; without it nobody does. A caption that is too
            long for the model is no fault, as the model cuts it.

    Raises:
        TooManyRejected: More clips are rejected than the recipe allows, or all.
        DataError: Too few clips are left to hold some out.
        IntegrityError: The document that lists the clips vanished, or is no file.
        TransientError: A store did not answer this time; what was probed so far is kept.
    """
    clips = find_clips(dataset, ledger)
    faults = _probe_all(dataset, clips, ledger=ledger, work=work, on_progress=on_progress)
    usable, rejected = _screen_all(clips, faults, ledger, Screen(config, video))
    _require_enough(dataset.url, len(usable), rejected, config)
    heldout = choose_heldout([clip.probed.sha256 for clip in usable], config=config)
    return Manifest(
        dataset=dataset.url,
        clips=tuple(
            window
            for clip in usable
            for window in window_clips(_manifest_clip(clip, heldout, video, count_tokens), video)
        ),
        rejected=tuple(rejected),
    )


def _screen_all(
    clips: Sequence[CaptionedClip], faults: Mapping[str, Fault], ledger: Ledger, screen: Screen
) -> tuple[list[_Usable], list[Rejected]]:
    usable: list[_Usable] = []
    rejected: list[Rejected] = []
    for clip in clips:
        fault = clip.fault or faults.get(clip.key)
        probed = ledger.last(clip.key) if fault is None else None
        if probed is not None:
            verdict = _judge(clip.key, probed, screen)
            if isinstance(verdict, Bucket):
                usable.append(_Usable(clip, probed, verdict))
            else:
                fault = verdict
        if fault is not None:
            rejected.append(Rejected(key=clip.key, reason=fault.reason, detail=fault.detail))
    return usable, rejected


def _judge(key: str, probed: Probed, screen: Screen) -> Bucket | Fault:
    if probed.fault is not None:
        return probed.fault
    assert probed.facts is not None
    return screen.judge(key, probed.sha256, probed.facts)


def _manifest_clip(
    usable: _Usable, heldout: frozenset[str], video: VideoConfig, count_tokens: CountTokens | None
) -> Clip:
    assert usable.clip.caption is not None
    assert usable.probed.facts is not None
    return Clip(
        key=usable.clip.key,
        sha256=usable.probed.sha256,
        caption=usable.clip.caption,
        facts=usable.probed.facts,
        size=usable.bucket.size,
        crop=video.crop_name,
        split="heldout" if usable.probed.sha256 in heldout else "train",
        tokens=count_tokens(usable.clip.caption) if count_tokens else None,
    )


def _probe_all(
    dataset: ObjectStore,
    clips: Sequence[CaptionedClip],
    *,
    ledger: Ledger,
    work: Path,
    on_progress: Progress,
) -> dict[str, Fault]:
    """Bring the ledger up to date; returns faults that are not of the bytes, so not remembered."""
    infos = [clip.info for clip in clips if clip.fault is None and clip.info is not None]
    ledger.forget_others({clip.key for clip in clips})
    unknown = [info for info in infos if ledger.known(info) is None]
    done, total, unsaved = len(clips) - len(unknown), len(clips), 0
    on_progress(done, total)
    faults: dict[str, Fault] = {}
    with ExitStack() as stack:
        stack.callback(ledger.save)
        folder = stack.enter_context(scratch_folder(work, "probe"))
        examined = stack.enter_context(closing(_examine_all(dataset, unknown, ledger, folder)))
        for info, found in examined:
            if isinstance(found, Probed):
                ledger.remember(info.key, found)
            else:
                faults[info.key] = found
            done += 1
            on_progress(done, total)
            unsaved += 1
            if unsaved >= max(_SAVE_EVERY, total // _SAVES):
                ledger.save()
                unsaved = 0
    return faults


def _examine_all(
    dataset: ObjectStore, infos: Sequence[ObjectInfo], ledger: Ledger, folder: Path
) -> Generator[tuple[ObjectInfo, Probed | Fault], None, None]:
    with ThreadPoolExecutor(_PROBERS) as pool:
        futures: list[Future[Probed | Fault]] = [
            pool.submit(_examine, dataset, info, ledger.last(info.key), folder) for info in infos
        ]
        try:
            for info, future in zip(infos, futures, strict=True):
                yield info, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _examine(
    dataset: ObjectStore, info: ObjectInfo, before: Probed | None, folder: Path
) -> Probed | Fault:
    """Fetch one file and look into it; the same bytes under a new stamp are as they were."""
    try:
        path = dataset.fetch(info.key, folder)
    except IntegrityError as error:
        return Fault(reason="missing", detail=str(error))
    try:
        with reached(dataset, info.key):
            sha256 = sha256_file(path)
        if before is not None and before.sha256 == sha256:
            return before.model_copy(update={"size": info.size, "stamp": info.stamp})
        found = {"size": info.size, "stamp": info.stamp, "sha256": sha256}
        try:
            track = read_track(path)
            return Probed.model_validate({**found, "facts": describe(track, look(path, track))})
        except DataError as error:
            fault = Fault(reason="unreadable", detail=str(error))
            return Probed.model_validate({**found, "facts": None, "fault": fault})
    except PermissionError:
        return Fault(reason="unreadable", detail="the file may not be read")
    finally:
        if path.is_relative_to(folder):
            path.unlink(missing_ok=True)


def _require_enough(
    url: str, usable: int, rejected: Sequence[Rejected], config: DatasetConfig
) -> None:
    total = usable + len(rejected)
    share = len(rejected) / total
    if usable and share <= config.max_rejected_share:
        return
    too_many = f", more than dataset.max_rejected_share = {config.max_rejected_share}"
    counts = Manifest(dataset=url, clips=(), rejected=tuple(rejected)).rejected_counts()
    by_reason = ", ".join(f"{reason} {count}" for reason, count in counts.items())
    summary = f"{len(rejected)} of {total} clips are rejected{too_many if usable else ''}"
    lines = [f"{url}: {summary} ({by_reason}); mend or remove them"]
    lines += [f"  - {item.key}: {item.detail}" for item in _examples(rejected)]
    raise TooManyRejected("\n".join(lines), rejected)


def _examples(rejected: Sequence[Rejected]) -> list[Rejected]:
    """A few clips, with as many different reasons as can be."""
    seen: dict[str, int] = {}
    ranked = []
    for item in rejected:
        ranked.append((seen.get(item.reason, 0), item))
        seen[item.reason] = seen.get(item.reason, 0) + 1
    return [item for _, item in sorted(ranked, key=lambda pair: pair[0])[:_EXAMPLES]]
