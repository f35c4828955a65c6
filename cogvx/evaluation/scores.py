"""What was measured on video files, kept in a store: what was scored before is not decoded again.

An object of `scores/` is named by everything that its numbers depend on, and by nothing else. It is
worth no more than the time that measuring anew takes, so a damaged one is measured anew.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from cogvx.digest import canonical_json, digest
from cogvx.errors import IntegrityError
from cogvx.evaluation.gauge import Seen
from cogvx.metrics.identity import identities, tools
from cogvx.metrics.registry import measure
from cogvx.metrics.viewed import Viewed
from cogvx.recipe_sections import VideoConfig
from cogvx.shapes import VideoSize
from cogvx.store import Absent, ObjectStore, read_checked

logger = logging.getLogger(__name__)

DocumentT = TypeVar("DocumentT", bound=BaseModel)


class FileScore(BaseModel):
    """One file's shape, its numbers by metric, and what its frames show to be wrong with it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frames: int
    height: int
    width: int
    fps: float
    values: dict[str, float]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """Measures files that all should be of one size and rate; without a store always anew."""

    video: VideoConfig
    store: ObjectStore | None = None

    def of(self, seen: Seen) -> FileScore:
        """All metrics of a video's own frames; it is decoded only if the store does not know them.

        Raises:
            DataError: The file cannot be decoded at all.
            ConfigError: A metric that a team brought gave no finite number.
        """
        parts = {"of": "frames", "video": seen.sha256, "metrics": {**identities()}}
        found = recall(
            self.store,
            parts | {"tools": tools()},
            FileScore,
            measure=lambda: _measured(Viewed.of(seen.video)),
        )
        faults = (*_shape_faults(found, self.video), *found.faults)
        return found.model_copy(update={"faults": faults})


def recall(
    store: ObjectStore | None,
    parts: Mapping[str, Any],
    kind: type[DocumentT],
    *,
    measure: Callable[[], DocumentT],
) -> DocumentT:
    """What was found before, or else what is found now, which is then kept.

    Args:
        store: Where it is kept; without one everything is measured anew.
        parts: Everything that the numbers depend on, as JSON; with a word for what they are, so
            that two ways of measuring never share a name.
        kind: The document; no number in it may be infinite or none.
        measure: Finds it.
    """
    if store is None:
        return measure()
    name = digest({"schema": 1, **parts})
    key = f"scores/{name[:2]}/{name}.json"
    try:
        data = read_checked(store, key, partial(_check, key=key))
        return kind.model_validate(json.loads(data)["found"])
    except Absent:
        pass
    except IntegrityError as error:
        logger.warning("%s in %s; it is measured anew", error, store.url)
    found = measure()
    plain = found.model_dump(mode="json")
    store.write(key, canonical_json({"sha256": digest(plain), "found": plain}))
    return found


def _measured(video: Viewed) -> FileScore:
    frames, height, width, _ = video.rgb_fhwc.shape
    return FileScore(
        frames=frames,
        height=height,
        width=width,
        fps=video.fps,
        values=measure(video),
        faults=video.sanity_faults,
    )


def _shape_faults(found: FileScore, video: VideoConfig) -> tuple[str, ...]:
    """Where a file's frames, size or rate are not what was asked for."""
    faults = []
    if (size := VideoSize(found.frames, found.height, found.width)) != video.size:
        faults.append(f"is {size}, not {video.size}")
    if not math.isclose(found.fps, video.fps, rel_tol=1e-3):
        faults.append(f"plays at {found.fps:g} frames a second, not {video.fps}")
    return tuple(faults)


def _check(data: bytes, key: str) -> None:
    """Refuse an object that does not hold the digest of the rest of it."""
    try:
        kept = json.loads(data)
        is_sound = kept["sha256"] == digest(kept["found"])
    except (ValueError, KeyError, TypeError):
        is_sound = False
    if not is_sound:
        raise IntegrityError(f"{key} is damaged")
