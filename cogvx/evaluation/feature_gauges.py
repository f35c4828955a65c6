"""Gauges over rows of features, whoever makes the rows: a network, or luma of a small copy."""

from collections.abc import Callable, Mapping, Sequence

from cogvx.evaluation.documents import Neighbour, Reading
from cogvx.evaluation.gauge import Findings, Seen
from cogvx.metrics.metric import Metric
from cogvx.metrics.similarity import Gallery, Rows

Embed = Callable[[Seen], Rows]
"""A video's eight middle frames as rows of features, `(f, d)`."""


class Diversity:
    """How unlike each other the videos of a prompt are, for every prompt with two seeds or more.

    Not of captions of training clips: there the same video for every seed is what memory gives.
    """

    def __init__(
        self, metric: Metric, embed: Embed, spread: Callable[[Sequence[Rows]], float | None]
    ) -> None:
        """`metric` is of kind "prompt"; `spread` measures it on a prompt's videos."""
        self._metric = metric
        self._embed = embed
        self._spread = spread
        self._videos: dict[str, list[Rows]] = {}

    def look(self, seen: Seen) -> Mapping[str, float]:
        """Remembers the video; it has no number of its own."""
        if seen.prompt.group != "train_caption":
            self._videos.setdefault(seen.prompt.id, []).append(self._embed(seen))
        return {}

    def findings(self) -> Findings:
        """One reading a prompt."""
        found = {prompt: self._spread(videos) for prompt, videos in self._videos.items()}
        return Findings(
            readings=tuple(
                Reading(metric=self._metric.name, unit=prompt, draw=0, value=value)
                for prompt, value in found.items()
                if value is not None
            )
        )


class Memorisation:
    """Which training clip a video resembles most, and how much."""

    def __init__(self, metric: Metric, embed: Embed, gallery: Gallery) -> None:
        """`metric` is of kind "video"; the gallery's rows are of the same make as `embed`'s."""
        self._metric = metric
        self._embed = embed
        self._gallery = gallery
        self._neighbours: list[Neighbour] = []

    def look(self, seen: Seen) -> Mapping[str, float]:
        """The cosine to the nearest frame of any clip; 0 and no clip for a video without rows."""
        rows_fd = self._embed(seen)
        if not len(rows_fd):
            return {self._metric.name: 0.0}
        clip, similarity = self._gallery.nearest(rows_fd)
        self._neighbours.append(
            Neighbour(
                prompt=seen.prompt.id,
                seed=seen.seed,
                metric=self._metric.name,
                clip=clip,
                similarity=similarity,
            )
        )
        return {self._metric.name: similarity}

    def findings(self) -> Findings:
        """One neighbour a video that has any."""
        return Findings(neighbours=tuple(self._neighbours))
