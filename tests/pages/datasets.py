"""Manifests made for the tests of pages."""

from cogvx.data.manifest import Clip, ClipFacts, ClipLook, Manifest, Rejected
from cogvx.recipe_sections import DatasetConfig, VideoConfig
from cogvx.shapes import VideoSize

VIDEO = VideoConfig(frames=9, height=48, width=64, fps=8)
CONFIG = DatasetConfig(uri="clips")


def clip_of(number: int, caption: str = "", **changes: object) -> Clip:
    """A clip of three seconds; its number decides its bytes, how bright it is and how it moves."""
    look = ClipLook(brightness=10 + number % 200, motion=0.2 + number, frames_sha256=str(number))
    facts = ClipFacts(width=64, height=48, frames=24, fps=8, codec="h264", look=look)
    values = {
        "key": f"{number:05}.mp4",
        "sha256": f"{number:064x}",
        "caption": caption or f"clip number {number} moves to the left",
        "facts": facts,
        "size": VideoSize(9, 48, 64),
        "split": "heldout" if number % 5 == 0 else "train",
        "tokens": 10 + number % 30,
    }
    return Clip.model_validate({**values, **changes})


def manifest_of(*clips: Clip, rejected: tuple[Rejected, ...] = ()) -> Manifest:
    return Manifest(dataset="file:///data/clips", clips=clips, rejected=rejected)
