"""Render a list of videos into a store, one at a time, each under a name made from its content.

What was rendered once is never rendered again, and a killed batch goes on with the next video. Each
has its own seed, so that neither order nor sharding can change a frame.
"""

import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cogvx import files
from cogvx.errors import IntegrityError
from cogvx.inference.request import Request, Weights
from cogvx.inference.video_key import Engine, VideoKey, key_of
from cogvx.mp4 import write_mp4
from cogvx.store import ObjectStore

if TYPE_CHECKING:
    from cogvx.inference.session import Session


@dataclass(frozen=True)
class AdapterAtWeight:
    """An adapter file and the weight it acts with; 1 is the strength that it was trained for."""

    sha256: str
    path: Path
    weight: float = 1.0


@dataclass(frozen=True)
class Wanted:
    """One video that somebody wants, and the adapters that act while it is generated."""

    request: Request
    adapters: tuple[AdapterAtWeight, ...] = ()

    def key(self, engine: Engine) -> VideoKey:
        """Its name, if this engine generates it."""
        adapters = tuple((adapter.sha256, adapter.weight) for adapter in self.adapters)
        return key_of(self.request, adapters, engine)


@dataclass(frozen=True)
class Made:
    """A wanted video as a local file; `fresh` if it was not in the store before.

    `number` is its place in the list.
    """

    number: int
    key: VideoKey
    path: Path
    fresh: bool


@dataclass(frozen=True)
class Failed:
    """A wanted video that turned out to be unusable, and why."""

    number: int
    key: VideoKey
    error: IntegrityError


@dataclass(frozen=True)
class Hooks:
    """What a batch calls on its way.

    Attributes:
        videos: With videos at hand, and videos wanted; first of all, and after each new one.
        steps: With denoising steps done of the video under way, and all of it.
        mix: With the session, in which they are attached but not used, and the weights of adapters
            that are about to be used; may refuse them by raising.
    """

    videos: Callable[[int, int], None] = lambda _done, _total: None
    steps: Callable[[int, int], None] | None = None
    mix: "Callable[[Session, Weights], None]" = lambda _session, _weights: None


SILENT = Hooks()


def render_videos(
    open_session: "Callable[[], Session]",
    wanted: Sequence[Wanted],
    *,
    engine: Engine,
    store: ObjectStore,
    work: Path,
    hooks: Hooks = SILENT,
) -> Iterator[Made]:
    """Bring every video to this machine, generating those that the store lacks.

    Videos with the same adapters are made one after the other, in the order in which such a mix is
    first wanted.

    Args:
        open_session: Called only if a video is missing; give `functools.cache(...)` of it to share
            one loaded model between batches. The session is left as it was found. Where the engine
            stores the base in 8 bits it is called for every mix, and must open a new one.
        wanted: What to bring; a video that is wanted twice is made once.
        engine: What such a session is.
        store: Where videos are kept for good, one by one as they are finished.
        work: A folder for local copies.
        hooks: Told how far it is.

    Yields:
        One entry for each that is wanted, as soon as it is there.

    Raises:
        IntegrityError: An adapter is not for this base, or a video is not finite.
    """
    tries = try_videos(open_session, wanted, engine=engine, store=store, work=work, hooks=hooks)
    with closing(tries):
        for tried in tries:
            if isinstance(tried, Failed):
                raise tried.error
            yield tried


def try_videos(
    open_session: "Callable[[], Session]",
    wanted: Sequence[Wanted],
    *,
    engine: Engine,
    store: ObjectStore,
    work: Path,
    hooks: Hooks = SILENT,
) -> Generator[Made | Failed, None, None]:
    """As `render_videos`, but an unusable video is `Failed`, and the others follow.

    Raises:
        IntegrityError: An adapter is not for this base.
    """
    keys = [each.key(engine) for each in wanted]
    paths = [key.path for key in keys]
    missing = {path for path in set(paths) if store.info(path) is None}
    left = set(missing)
    failed: dict[str, IntegrityError] = {}
    batch = _Batch(open_session, engine, hooks)
    hooks.videos(sum(path not in left for path in paths), len(paths))
    try:
        for number in _grouped(wanted):
            key, path = keys[number], paths[number]
            if path in left:
                left.remove(path)
                session = batch.session_with(wanted[number].adapters)
                try:
                    rgb_fhwc = session.generate(wanted[number].request, on_step=hooks.steps)
                except IntegrityError as error:
                    failed[path] = error
                else:
                    _keep(rgb_fhwc, key, store, work)
                hooks.videos(sum(other not in left for other in paths), len(paths))
            if path in failed:
                yield Failed(number, key, failed[path])
            else:
                yield Made(number, key, store.fetch(path, work), path in missing)
    finally:
        batch.close()


def try_mix(
    open_session: "Callable[[], Session]",
    adapters: tuple[AdapterAtWeight, ...],
    *,
    engine: Engine,
    hooks: Hooks,
) -> None:
    """Attach adapters as for their videos, so that `hooks.mix` sees them, and generate nothing.

    Raises:
        IntegrityError: An adapter is not for this base, or the hook refuses it.
    """
    batch = _Batch(open_session, engine, hooks)
    try:
        batch.session_with(adapters)
    finally:
        batch.close()


def _keep(rgb_fhwc: np.ndarray, key: VideoKey, store: ObjectStore, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    # A folder of its own: another process of this home may be keeping the same video.
    with tempfile.TemporaryDirectory(dir=work, prefix=files.ASIDE) as own:
        path = Path(own) / f"{key.digest}.mp4"
        # Nothing of what made it is in the file, as captions may be private: its name says it.
        write_mp4(path, rgb_fhwc, fps=key.fps, crf=key.crf)
        store.upload(path, key.path)


def _grouped(wanted: Sequence[Wanted]) -> list[int]:
    """Places in the list, those with the same mix side by side."""
    first: dict[tuple[AdapterAtWeight, ...], int] = {}
    for number, each in enumerate(wanted):
        first.setdefault(each.adapters, number)
    return sorted(range(len(wanted)), key=lambda number: first[wanted[number].adapters])


class _Batch:
    """A session that is opened when it is needed, and the adapters that lie in it."""

    def __init__(self, open_session: "Callable[[], Session]", engine: Engine, hooks: Hooks) -> None:
        self._open, self._engine, self._hooks = open_session, engine, hooks
        self._session: Session | None = None
        self._mix: tuple[AdapterAtWeight, ...] = ()
        self._names: dict[str, str] = {}

    def close(self) -> None:
        """Leave the session as it was found."""
        session, self._session = self._session, None
        if session is None or self._engine.base_weights != "as_is":
            return  # in 8 bits the adapters are part of it for good
        session.use({})
        if self._engine.fused:
            session.unfuse()
        for name in self._names.values():
            session.detach(name)
        self._names = {}

    def session_with(self, adapters: tuple[AdapterAtWeight, ...]) -> "Session":
        """The session with these adapters acting, and no others."""
        session = self._session
        if session is not None and adapters == self._mix:
            return session
        if session is None or self._engine.base_weights != "as_is":
            self._session, self._names = None, {}  # let go of, before there are two of them
            del session
            session = self._session = self._open()
        weights = self._attach(session, adapters)
        if weights:
            self._hooks.mix(session, weights)
        session.use(weights)
        if self._engine.fused and weights:
            session.fuse()
        self._mix = adapters
        return session

    def _attach(self, session: "Session", adapters: tuple[AdapterAtWeight, ...]) -> Weights:
        """Weights by name of those that act; files that are new here are attached."""
        weights: dict[str, float] = {}
        for adapter in adapters:
            if not adapter.weight:
                continue
            name = self._names.get(adapter.sha256, f"adapter{len(self._names)}")
            if adapter.sha256 not in self._names:
                session.attach(name, adapter.path)
                self._names[adapter.sha256] = name
            weights[name] = weights.get(name, 0.0) + float(adapter.weight)
        return weights
