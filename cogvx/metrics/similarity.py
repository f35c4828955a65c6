"""Features of videos compared with each other: how alike, how varied, how near to which clip.

A video or a clip is its eight middle frames, one row of features each, whoever made the rows: a
network, or the luma of a small copy. Rows that are zero resemble nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

MIDDLE_FRAMES = 8
_USUAL_PERCENT = 99

Rows = NDArray[np.floating]
Unit = NDArray[np.float64]
"""Rows, or one of them, of length 1."""


def middle_frames(total: int, count: int = MIDDLE_FRAMES) -> tuple[int, ...]:
    """Which frames stand for a video: the middles of `count` equal parts; of fewer frames all.

    A video of fewer frames gives its last one again in the place of those it lacks.

    Args:
        total: Frames of the video, at least one.
        count: Frames wanted.

    Source: VBench `get_frame_indices`, sample "middle".
    """
    parts = min(count, total)
    bounds = np.linspace(0, total, parts + 1).astype(int)
    found = [int(start + end - 1) // 2 for start, end in pairwise(bounds)]
    return (*found, *found[-1:] * (count - parts))


def unit_rows(rows: Rows) -> Unit:
    """Every row divided by its length, in float64; rows of zeros stay."""
    exact = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(exact, axis=-1, keepdims=True)
    scaled: Unit = exact / np.where(lengths > 0, lengths, 1.0)
    return scaled


def embedding_of(rows_fd: Rows) -> Unit:
    """One row for a whole video, `(d,)`: the mean of its frames' directions, of length 1."""
    return unit_rows(unit_rows(rows_fd).mean(axis=0))


def centroid_of(embeddings: Sequence[Unit]) -> Unit:
    """The direction between all of them, `(d,)`."""
    return embedding_of(np.stack(embeddings))


def mean_cosine(rows_fd: Rows, direction_d: Rows) -> float:
    """Mean cosine of the rows to one direction, -1..1."""
    return float((unit_rows(rows_fd) @ unit_rows(direction_d)).mean())


def diversity(videos: Sequence[Rows]) -> float | None:
    """Mean over all pairs of videos of 1 - cosine, 0 (all the same) to 2; None below two videos.

    Args:
        videos: Rows of each, of which the embeddings are compared.
    """
    if len(videos) < 2:
        return None
    stacked_sd = np.stack([embedding_of(rows_fd) for rows_fd in videos])
    above = np.triu_indices(len(stacked_sd), k=1)
    return float(1.0 - (stacked_sd @ stacked_sd.T)[above].mean())


@dataclass(frozen=True)
class Usual:
    """What clips that are no copies reach, how many they are, and how many lie above it."""

    value: float
    clips: int
    above: int


@dataclass(frozen=True)
class Gallery:
    """Clips to look for a video in. `rows_nd` are unit rows of all frames of all windows.

    `clips` names the clip of each row, so a clip with several windows stands there several times.
    """

    clips: tuple[str, ...]
    rows_nd: NDArray[np.float32]

    @classmethod
    def of(cls, windows: Sequence[tuple[str, Rows]]) -> "Gallery":
        """Of the name and the rows of every window; at least one."""
        names = tuple(name for name, rows_fd in windows for _ in range(len(rows_fd)))
        rows = [unit_rows(rows_fd).astype(np.float32) for _, rows_fd in windows]
        return cls(names, np.concatenate(rows))

    def nearest(self, rows_fd: Rows) -> tuple[str, float]:
        """The clip with the most similar frame, and the cosine of the two frames, -1..1.

        float32 is enough to tell neighbours apart, and halves a gallery of thousands of clips.
        """
        cosines_fn = unit_rows(rows_fd).astype(np.float32) @ self.rows_nd.T
        place = int(cosines_fn.max(axis=0).argmax())
        return self.clips[place], min(float(cosines_fn[:, place].max()), 1.0)

    def usual(self, clips: Sequence[tuple[str, Rows]]) -> "Usual | None":
        """What the nearest cosines of clips that are no copies reach, their 99th percentile.

        A video above it resembles a clip more than real ones of the same kind mostly do. None of
        none.

        Args:
            clips: Name and rows of every window. Windows of one clip resemble each other, so clips
                are counted, and one is above where any of its windows is.
        """
        if not clips:
            return None
        found = [(name, self.nearest(rows_fd)[1]) for name, rows_fd in clips]
        limit = float(np.percentile([value for _, value in found], _USUAL_PERCENT))
        above = {name for name, value in found if value > limit}
        return Usual(limit, clips=len({name for name, _ in found}), above=len(above))
