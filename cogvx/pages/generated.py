"""The page of generated videos: every one beside its prompt, in the folder that it lies in."""

from collections.abc import Sequence
from dataclasses import dataclass

from cogvx.pages.template import render_template


@dataclass(frozen=True)
class Shown:
    """A video: its file beside the page, or None and why it is not there."""

    name: str
    file: str | None
    text: str
    facts: str
    why: str | None = None


def render_generated(title: str, videos: Sequence[Shown]) -> str:
    """The page as text; it needs the videos beside it."""
    return render_template(
        "cogvx.pages",
        "generated.html.jinja",
        title=title,
        videos=videos,
        absent=sum(video.file is None for video in videos),
    )
