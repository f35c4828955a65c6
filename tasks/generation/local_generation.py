"""Generate a checked job on this machine, into files that a person names."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from cogvx.errors import ConfigError
from cogvx.inference.batch import Hooks, render_videos
from cogvx.inference.choices import used_adapters
from cogvx.inference.provenance import describe_video, write_provenance
from cogvx.store import require_writable
from tasks.clients.stores import kept_on_disk, open_record_store
from tasks.generation.generation import Ready
from tasks.generation.outputs import claim, place, write_sweep
from tasks.settings import Settings
from tasks.workbench import code_version, device_of

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """A file at its place; `made` is False if exactly this was there before."""

    path: Path
    made: bool


def generate_here(
    ready: Ready,
    out: Path,
    here: Settings,
    *,
    force: bool,
    on_videos: Progress,
    on_steps: Progress,
) -> tuple[Written, ...]:
    """Make the videos that are not at their places yet; the model is loaded only for new ones.

    Every video is kept in the store as soon as it is finished, so that a run that is stopped goes
    on with the next one.

    Args:
        ready: The job.
        out: An mp4 for one video, or a folder.
        here: Where the store is.
        force: Replace other files.
        on_videos: Called with videos at hand and videos wanted.
        on_steps: Called with steps done and steps in all, of the video under way.

    Raises:
        ConfigError: Something else stands at a place, or it or the store cannot be written.
        IntegrityError: An adapter does not fit the base, or a video is not finite.
    """
    by_name = {shot.name: shot for shot in ready.shots}
    wanted = {
        shot.name: describe_video(
            shot.wanted.request,
            shot.wanted.key(ready.engine),
            base=ready.base,
            adapters=used_adapters(ready.adapters, shot.scale),
            code=code_version(),
            with_prompt=ready.job.with_prompt,
        )
        for shot in ready.shots
    }
    targets = claim(place(out, ready.shots), wanted, force=force)
    left = [name for name, target in targets.items() if not target.is_there]
    if left:
        store = kept_on_disk(open_record_store(here), here)
        require_writable(store)
        _require_room(target.path.parent for target in targets.values())
        made = render_videos(
            lambda: ready.open_session(device_of(here), store),
            [by_name[name].wanted for name in left],
            engine=ready.engine,
            store=store,
            work=here.work / "videos",
            hooks=Hooks(videos=on_videos, steps=on_steps),
        )
        for video in made:
            target = targets[left[video.number]]
            write_provenance(video.path, target.path, target.provenance)
    written = [Written(target.path, not target.is_there) for target in targets.values()]
    if ready.job.scales and len(ready.shots) > 1:
        names = ", ".join(f"{found.name} at {found.weight:g}" for found in ready.adapters)
        grid = write_sweep(out, names, ready.shots, targets, force=force)
        written += [Written(path, bool(left)) for path in grid]
    return tuple(written)


def _require_room(folders: Iterable[Path]) -> None:
    """Find out that a place cannot be written before hours of work are to go there.

    Raises:
        ConfigError: It cannot; the message says why.
    """
    for folder in set(folders):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written: {error.strerror}") from error
