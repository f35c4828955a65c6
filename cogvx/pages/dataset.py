"""The page of a dataset: what the next adapter learns from, and what is new about it.

First the numbers and what a person should look at, then the difference to earlier manifests, then
pictures, captions, measures and the clips that were rejected.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from cogvx.data.diff import ManifestDiff, diff_manifests
from cogvx.data.manifest import Manifest, Rejected
from cogvx.data.statistics import DatasetStatistics, describe_manifest, each_clip, token_counts
from cogvx.data.words import common_words, meagre_captions, repeated_captions
from cogvx.digest import digest
from cogvx.pages import histogram
from cogvx.pages.measures import draw_measures
from cogvx.pages.remarks import duration, movements, remarks
from cogvx.pages.sheet import Pictures, choose_pictures
from cogvx.pages.strips import Strip
from cogvx.pages.template import render_template
from cogvx.recipe_sections import DatasetConfig, VideoConfig

# Raise it when the same dataset is to get another page.
PAGE_VERSION = 1

_WORDS = 30
_LONGEST = 5
_REPEATED = 10
_MEAGRE = 10
_REJECTED = 40


@dataclass(frozen=True)
class Before:
    """A dataset to compare with; `manifest` is None where there is none, and `absent` says why."""

    title: str
    manifest: Manifest | None
    absent: str = ""


@dataclass(frozen=True)
class Dataset:
    """What the page is about: a manifest, how it was screened, and what it is compared with.

    `token_limit` is how many tokens of a caption the model reads. The first of `before` that is
    another manifest is drawn into the charts.
    """

    name: str
    manifest: Manifest
    config: DatasetConfig
    video: VideoConfig
    token_limit: int
    before: tuple[Before, ...] = ()

    @cached_property
    def identity(self) -> str:
        """Names all that the page shows, but for what it is compared with: that moves on."""
        return digest(
            {
                "page": PAGE_VERSION,
                "name": self.name,
                "manifest": self.manifest.content_digest(),
                "rejected": [item.model_dump() for item in self.manifest.rejected],
                "dataset": self.config.model_dump(mode="json"),
                "video": self.video.model_dump(mode="json"),
                "token_limit": self.token_limit,
            }
        )

    def describe(self, manifest: Manifest | None = None) -> DatasetStatistics:
        """This manifest, or an earlier one, in numbers."""
        chosen = manifest or self.manifest
        return describe_manifest(chosen, fps=self.video.fps, token_limit=self.token_limit)

    @cached_property
    def compared(self) -> tuple[Before, ...]:
        """Those of `before`, a manifest that stands there under several titles once."""
        merged: dict[str, Before] = {}
        for before in self.before:
            name = before.manifest.content_digest() if before.manifest else before.title
            known = merged.get(name)
            title = f"{known.title} and {before.title}" if known else before.title
            merged[name] = replace(before, title=title)
        return tuple(merged.values())

    @cached_property
    def reference(self) -> Before | None:
        """The first earlier dataset that is there and is another one."""
        now = self.manifest.content_digest()
        for before in self.compared:
            if before.manifest is not None and before.manifest.content_digest() != now:
                return before
        return None

    @cached_property
    def added(self) -> frozenset[str]:
        """Clips that the reference has not, by their bytes; none without a reference."""
        if self.reference is None or self.reference.manifest is None:
            return frozenset()
        old = {clip.sha256 for clip in self.reference.manifest.clips}
        return frozenset(clip.sha256 for clip in self.manifest.clips if clip.sha256 not in old)

    @cached_property
    def sections(self) -> tuple[Pictures, ...]:
        """The contact sheet."""
        since = self.reference.title if self.reference else ""
        return choose_pictures(self.manifest, self.added, since)


@dataclass(frozen=True)
class Compared:
    """What changed since an earlier dataset, or why that cannot be said."""

    title: str
    absent: str
    diff: ManifestDiff | None = None


@dataclass(frozen=True)
class Rejections:
    """The clips that were rejected for one reason; only the first of many are shown."""

    reason: str
    count: int
    shown: tuple[Rejected, ...]


def render_dataset(dataset: Dataset, strips: Mapping[str, Strip]) -> str:
    """The page as text; the same dataset and strips give the same text.

    Args:
        dataset: What it shows.
        strips: By the keys of the clips in its `sections`.
    """
    clips = each_clip(dataset.manifest)
    numbers = dataset.describe()
    reference = dataset.reference
    meagre, repeated = meagre_captions(clips), repeated_captions(clips)
    return render_template(
        "cogvx.pages",
        "dataset.html.jinja",
        dataset=dataset,
        numbers=numbers,
        tiles=_tiles(numbers),
        remarks=remarks(
            numbers,
            manifest=dataset.manifest,
            video=dataset.video,
            meagre=len(meagre),
            repeated=[len(one.keys) for one in repeated],
        ),
        compared=[_compare(before, dataset.manifest) for before in dataset.compared],
        movements=_movements(dataset, numbers),
        sections=dataset.sections,
        strips=strips,
        added=dataset.added,
        reference=reference,
        charts=draw_measures(
            dataset.manifest,
            reference.manifest if reference else None,
            config=dataset.config,
            token_limit=dataset.token_limit,
        ),
        chart_size=(histogram.WIDTH, histogram.HEIGHT),
        words=common_words([clip.caption for clip in clips], _WORDS),
        longest=sorted(clips, key=lambda clip: -(clip.tokens or 0))[:_LONGEST]
        if token_counts(clips)
        else (),
        meagre=meagre[:_MEAGRE],
        more_meagre=max(0, len(meagre) - _MEAGRE),
        repeated=repeated[:_REPEATED],
        more_repeated=max(0, len(repeated) - _REPEATED),
        rejections=_rejections(dataset.manifest),
        duration=duration,
    )


def _tiles(numbers: DatasetStatistics) -> list[tuple[str, str, str]]:
    """Number, what it counts, and what to know about it."""
    rejected = sum(numbers.rejected.values())
    share = rejected / (numbers.all.clips + rejected)
    mirrored = f", {numbers.mirrored} of them mirrored" if numbers.mirrored else ""
    return [
        (f"{numbers.all.clips:,}", "clips", f"{duration(numbers.source_seconds)} of film"),
        (
            f"{numbers.all.windows:,}",
            "windows",
            f"{duration(numbers.all.seconds)} are used{mirrored}",
        ),
        (
            f"{numbers.heldout.clips:,}",
            "held out",
            f"{numbers.train.clips:,} clips are trained on",
        ),
        (f"{rejected:,}", "rejected", f"{share:.0%} of what was found"),
    ]


def _movements(dataset: Dataset, numbers: DatasetStatistics) -> list[tuple[str, list[str]]]:
    earlier = [before.manifest for before in dataset.compared if before.manifest]
    return movements(numbers, [dataset.describe(manifest) for manifest in earlier])


def _compare(before: Before, manifest: Manifest) -> Compared:
    if before.manifest is None:
        return Compared(before.title, before.absent)
    return Compared(before.title, "", diff_manifests(before.manifest, manifest))


def _rejections(manifest: Manifest) -> list[Rejections]:
    """By reason, the commonest first."""
    found: dict[str, list[Rejected]] = {}
    for item in manifest.rejected:
        found.setdefault(item.reason, []).append(item)
    ordered = sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return [Rejections(name, len(items), tuple(items[:_REJECTED])) for name, items in ordered]
