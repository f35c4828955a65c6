"""Gauges of networks: what they see in an arm's videos, beside texts, held-out and training clips.

Gauges remember the videos of one arm, so every arm has its own; networks and clips are shared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cogvx.data.manifest import Clip
from cogvx.errors import ConfigError
from cogvx.evaluation.documents import Limit, Reading
from cogvx.evaluation.encoder_needs import token_problems
from cogvx.evaluation.feature_gauges import Diversity, Embed, Memorisation
from cogvx.evaluation.gauge import Findings, Gauge, Seen
from cogvx.evaluation.suite import Suite
from cogvx.evaluation.suite_texts import scored_text
from cogvx.metrics.encoder_set import EncoderSet
from cogvx.metrics.encoders import Encoder
from cogvx.metrics.features import FrameEncoder, Middle
from cogvx.metrics.learned import (
    diversity_name,
    domain_similarity_name,
    memorisation_name,
)
from cogvx.metrics.mmd import discrepancy
from cogvx.metrics.registry import metrics
from cogvx.metrics.similarity import Gallery, Rows, Unit, centroid_of, diversity, embedding_of
from cogvx.metrics.video_features import VideoFeatures, values_of
from cogvx.store import ObjectStore

DOMAIN_KINDS = ("dinov2", "clip")

RowsOf = Callable[[Sequence[Clip], FrameEncoder], Sequence[tuple[str, Rows]]]
"""Clip and features of every window; clips that are gone are left out."""


@dataclass(frozen=True)
class SeenClips:
    """What a network sees in clips: eight rows a window, in the manifest's order.

    `heldout` are windows that nothing was trained on, `train` those that were.
    """

    heldout: tuple[tuple[str, Rows], ...]
    train: tuple[tuple[str, Rows], ...]

    @cached_property
    def references(self) -> list[Unit]:
        """One direction for each held-out clip, whatever its number of windows."""
        windows: dict[str, list[Unit]] = {}
        for clip, rows_fd in self.heldout:
            windows.setdefault(clip, []).append(embedding_of(rows_fd))
        return [centroid_of(each) for each in windows.values()]

    @cached_property
    def gallery(self) -> Gallery | None:
        """All that an adapter could have learnt by heart."""
        return Gallery.of(self.train) if self.train else None

    @property
    def limit(self) -> Limit | None:
        """What held-out clips reach themselves against the training clips, 99th percentile."""
        usual = None if self.gallery is None else self.gallery.usual(self.heldout)
        if usual is None:
            return None
        return Limit(value=usual.value, clips=usual.clips, above=usual.above)


@dataclass(frozen=True)
class Networks:
    """The networks of an evaluation, and what they see in its texts and clips."""

    encoders: EncoderSet
    texts: Mapping[str, Mapping[str, Rows]]
    clips: Mapping[str, SeenClips]
    store: ObjectStore

    @property
    def limits(self) -> dict[str, Limit]:
        """Limits of memorisation that a ceiling without one takes, by metric."""
        found = {memorisation_name(kind): rows.limit for kind, rows in self.clips.items()}
        return {metric: limit for metric, limit in found.items() if limit is not None}


def look_at_clips(
    encoders: EncoderSet,
    suite: Suite,
    *,
    heldout: Sequence[Clip],
    train: Sequence[Clip],
    rows_of: RowsOf,
    store: ObjectStore,
) -> Networks:
    """Let the networks read the texts and look at the clips; what they saw before is kept.

    Args:
        encoders: Open networks.
        suite: Whose prompts' short texts are read.
        heldout: Windows that nothing was trained on.
        train: Windows that were trained on.
        rows_of: Looks at windows with a network.
        store: Where features of videos are kept.

    Raises:
        ConfigError: Texts are too long for a network; with all of them.
    """
    readers = [reader.tokens for reader in encoders.texts.values()]
    if problems := token_problems(suite, readers):
        raise ConfigError(f"suite {suite.name}", problems)
    texts = {
        kind: {prompt.id: reader.features(scored_text(prompt)) for prompt in suite.prompts}
        for kind, reader in encoders.texts.items()
    }
    clips = {
        kind: SeenClips(
            heldout=tuple(rows_of(heldout, Middle(encoders.images[kind]))),
            train=tuple(rows_of(train, Middle(encoders.images[kind]))),
        )
        for kind in DOMAIN_KINDS
        if kind in encoders.images
    }
    return Networks(encoders, texts, clips, store)


def encoder_gauges(networks: Networks) -> tuple[Gauge, ...]:
    """Gauges for one arm, of every metric that the networks allow."""
    source = _Source(networks.store)
    known = metrics()
    found: list[Gauge] = [_Alone(networks, source)]
    for kind, clips in networks.clips.items():
        embed = source.middle(networks.encoders.images[kind])
        found.append(Diversity(known[diversity_name(kind)], embed, diversity))
        if clips.heldout:
            found.append(DomainSimilarity(kind, embed, clips.references))
        gallery = clips.gallery
        if gallery is not None:
            found.append(Memorisation(known[memorisation_name(kind)], embed, gallery))
    return tuple(found)


class DomainSimilarity:
    """How much videos look like the held-out clips, and whether both are of one distribution."""

    def __init__(self, kind: str, embed: Embed, references: Sequence[Unit]) -> None:
        """`references` has a direction for each held-out clip."""
        self._kind = kind
        self._embed = embed
        self._references = list(references)
        self._centre = centroid_of(references)
        self._domain: dict[str, list[Unit]] = {}

    def look(self, seen: Seen) -> Mapping[str, float]:
        """Cosine of the video's direction to the middle of the clips'."""
        embedding = embedding_of(self._embed(seen))
        if seen.prompt.group == "domain":
            self._domain.setdefault(seen.prompt.id, []).append(embedding)
        return {domain_similarity_name(self._kind): float(embedding @ self._centre)}

    def findings(self) -> Findings:
        """The squared discrepancy of prompts and clips, and its p; none below 32 of each.

        A prompt is one row, the mean over its seeds: its videos are not drawn independently.
        """
        if not self._domain:
            return Findings()
        prompts = np.stack([np.mean(each, axis=0) for each in self._domain.values()])
        found = discrepancy(prompts, np.stack(self._references), kernel="rbf")
        if found is None:
            return Findings()
        values = {"domain_mmd": found.squared, "domain_mmd_p": found.p}
        return Findings(
            readings=tuple(
                Reading(metric=f"{name}_{self._kind}", unit="domain", draw=0, value=value)
                for name, value in values.items()
            )
        )


class _Source:
    """Features of the video that gauges look at, so that each network's are fetched once."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._last: tuple[str, VideoFeatures] | None = None

    def of(self, seen: Seen) -> VideoFeatures:
        """What the networks see in a video."""
        if self._last is None or self._last[0] != seen.sha256:
            frames = lambda: seen.video.rgb_fhwc  # noqa: E731 - decoded only when asked for
            self._last = (seen.sha256, VideoFeatures(seen.sha256, frames, self._store))
        return self._last[1]

    def middle(self, encoder: Encoder) -> Embed:
        """How a network sees the eight middle frames of a video."""
        return lambda seen: self.of(seen).middle(encoder)


class _Alone:
    """What networks see in a video by itself and in its text."""

    def __init__(self, networks: Networks, source: _Source) -> None:
        self._networks = networks
        self._source = source

    def look(self, seen: Seen) -> Mapping[str, float]:
        """Consistency, fit to the text and beauty, as far as there are networks for them."""
        texts = {kind: found[seen.prompt.id] for kind, found in self._networks.texts.items()}
        return values_of(self._source.of(seen), self._networks.encoders, texts)

    def findings(self) -> Findings:
        """Nothing: every video had its own numbers."""
        return Findings()
