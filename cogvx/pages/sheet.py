"""Which clips the contact sheet shows: all of few; the new, the extreme and some of many."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cogvx.data.manifest import Clip, Manifest
from cogvx.data.statistics import each_clip

_PICTURES = 40
_NEW, _EXTREME = 10, 6


@dataclass(frozen=True)
class Pictures:
    """A section of the contact sheet."""

    title: str
    about: str
    clips: tuple[Clip, ...]


def choose_pictures(
    manifest: Manifest, added: Collection[str] = (), since: str = ""
) -> tuple[Pictures, ...]:
    """At most 40 clips by section, none twice.

    Args:
        manifest: What is shown.
        added: New clips, by their bytes.
        since: In comparison with what they are new.
    """
    clips = each_clip(manifest)
    if len(clips) <= _PICTURES:
        return (Pictures("Clips", "all of them", clips),)
    new = [clip for clip in clips if clip.sha256 in added]
    looked = [clip for clip in clips if clip.facts.look is not None]
    wanted = [
        (f"New since {since}", f"{min(len(new), _NEW)} of {len(new):,}", _evenly(new, _NEW)),
        ("Stillest", "next to be rejected as static", sorted(looked, key=_motion)[:_EXTREME]),
        ("Darkest", "next to be rejected as black", sorted(looked, key=_light)[:_EXTREME]),
    ]
    sections: list[Pictures] = []
    shown: set[str] = set()
    for title, about, chosen in wanted:
        fresh = tuple(clip for clip in chosen if clip.key not in shown)
        shown.update(clip.key for clip in fresh)
        if fresh:
            sections.append(Pictures(title, about, fresh))
    rest = _evenly([clip for clip in clips if clip.key not in shown], _PICTURES - len(shown))
    about = f"{len(rest)} of {len(clips):,}, evenly chosen in the order of their names"
    return (*sections, Pictures("Cross-section", about, tuple(rest)))


def _evenly(clips: Sequence[Clip], count: int) -> list[Clip]:
    """At most `count` clips, from the first to the last."""
    if len(clips) <= count or count < 2:
        return list(clips[:count])
    return [clips[round(i * (len(clips) - 1) / (count - 1))] for i in range(count)]


def _motion(clip: Clip) -> float:
    return clip.facts.look.motion if clip.facts.look else 0.0


def _light(clip: Clip) -> float:
    return clip.facts.look.brightness if clip.facts.look else 0.0
