"""The nano model's world: flat shapes that move over flat backgrounds, each clip with a caption.

Everything that a caption says can be seen in its clip and measured in it, and wordings vary, so
that a model must read the caption to do well. Clip `n` of a seed is always the same clip.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cogvx import files
from cogvx.mp4 import write_mp4

SHAPES = ("circle", "square", "triangle", "diamond", "ring", "cross")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 220, 50),
    "orange": (245, 140, 30),
    "purple": (140, 50, 180),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
SIZES = {"small": 0.2, "large": 0.3}  # radius as a share of the frame
MOTIONS = {  # direction on the screen, and how captions say it
    "left": ((-1, 0), ("moves left", "slides to the left", "drifts leftwards")),
    "right": ((1, 0), ("moves right", "slides to the right", "drifts rightwards")),
    "up": ((0, -1), ("moves up", "rises", "drifts upwards")),
    "down": ((0, 1), ("moves down", "falls", "drifts downwards")),
    "still": ((0, 0), ("stays still", "rests", "does not move")),
}
WORDINGS = (
    "a {size} {colour} {shape} {moves} over a {background} background",
    "a {size} {colour} {shape} {moves}, {background} background",
    "on {background}, a {size} {colour} {shape} {moves}",
    "{background} background with a {size} {colour} {shape} that {moves}",
)
# No caption of the world holds these. The tokenizer knows them, so that an adapter can be taught
# what they mean without a caption growing too long.
SPARE_WORDS = (
    *("star", "heart", "moon", "arrow", "hexagon", "spiral", "cloud", "fish"),
    *("circling", "spins", "bounces", "zigzags", "loops", "shakes", "grows", "shrinks"),
    *("neon", "glowing", "outlined", "dotted", "striped", "sketched", "soft", "grainy"),
    *("style", "in", "grid", "dark", "bright", "pink", "grey", "around", "drawn"),
)

# Shape, colour and motion that the carried model never saw together, to test that it composes.
HELD_OUT = (
    ("triangle", "green", "up"),
    ("ring", "blue", "left"),
    ("cross", "white", "still"),
    ("square", "orange", "down"),
)

_TRAVEL = 0.4  # share of the frame that a moving shape crosses during the clip
_JITTER = 0.02  # how far from the middle its path may lie: captions do not say, seeds decide
_OVERSAMPLING = 4


@dataclass(frozen=True)
class Scene:
    """What one clip shows; `offset` moves the path's middle from the frame's, in frame widths."""

    shape: str
    colour: str
    size: str
    motion: str
    background: str
    offset: tuple[float, float]
    caption: str


def draw_scene(seed: int, number: int) -> Scene:
    """The scene of clip `number` of a seed; the background never has the shape's colour."""
    rng = np.random.default_rng([seed, number])
    colour, background = (str(name) for name in rng.choice(list(COLOURS), size=2, replace=False))
    shape, size, motion = (str(rng.choice(list(choices))) for choices in (SHAPES, SIZES, MOTIONS))
    caption = str(rng.choice(WORDINGS)).format(
        size=size,
        colour=colour,
        shape=shape,
        background=background,
        moves=str(rng.choice(MOTIONS[motion][1])),
    )
    right, down = rng.uniform(-_JITTER, _JITTER, size=2)
    return Scene(
        shape=shape,
        colour=colour,
        size=size,
        motion=motion,
        background=background,
        offset=(float(right), float(down)),
        caption=caption,
    )


def is_held_out(scene: Scene) -> bool:
    """Whether the carried model was kept from clips like this one."""
    return (scene.shape, scene.colour, scene.motion) in HELD_OUT


def captions(count: int, seed: int) -> list[str]:
    """Captions of the first clips of a seed."""
    return [draw_scene(seed, number).caption for number in range(count)]


def words() -> tuple[str, ...]:
    """Every word that a caption can hold, sorted: the tokenizer's vocabulary."""
    phrases: list[str] = [phrase for _, sayings in MOTIONS.values() for phrase in sayings]
    phrases += [*SHAPES, *COLOURS, *SIZES]
    phrases += [re.sub(r"\{\w+\}", " ", wording) for wording in WORDINGS]
    return tuple(sorted(set(re.findall(r"[a-z]+", " ".join(phrases)))))


def first_words() -> tuple[str, ...]:
    """Words that a caption can begin with, sorted."""
    starts = {wording.split(maxsplit=1)[0] for wording in WORDINGS}
    return tuple(sorted((starts - {"{background}"}) | set(COLOURS)))


def render(scene: Scene, *, frames: int, size: int) -> np.ndarray:
    """Draw a scene with smooth edges.

    Returns:
        uint8 `(f, h, w, 3)`; a moving shape crosses `_TRAVEL` of the frame, whatever `frames` is.
    """
    clip = np.empty((frames, size, size, 3), dtype=np.uint8)
    paint = np.array(COLOURS[scene.colour], dtype=np.float64)
    ground = np.array(COLOURS[scene.background], dtype=np.float64)
    for number, centre in enumerate(path(scene, frames)):
        inside = partial(is_inside, scene.shape)
        cover_hw1 = cover(inside, centre=centre, radius=SIZES[scene.size], size=size)[..., None]
        clip[number] = np.rint(cover_hw1 * paint + (1 - cover_hw1) * ground)
    return clip


def path(scene: Scene, frames: int) -> list[tuple[float, float]]:
    """Where the shape's middle is in each frame: right and down, in frame widths."""
    right, down = MOTIONS[scene.motion][0]
    return [
        (
            0.5 + scene.offset[0] + right * progress * _TRAVEL,
            0.5 + scene.offset[1] + down * progress * _TRAVEL,
        )
        for progress in np.linspace(-0.5, 0.5, frames)
    ]


def cover(
    inside: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    centre: tuple[float, float],
    radius: float,
    size: int,
) -> np.ndarray:
    """How much of each pixel a figure covers, 0 to 1, `(h, w)`.

    Args:
        inside: Says of points, right and down of the middle in radii, whether they are covered.
        centre: Of the figure: right and down, in frame widths.
        radius: In frame widths.
        size: Of the frame's sides, in pixels.
    """
    fine = (np.arange(size * _OVERSAMPLING) + 0.5) / (size * _OVERSAMPLING)
    right_w, down_h = ((fine - middle) / radius for middle in centre)
    blocks = inside(right_w[None, :], down_h[:, None])
    return _soften(blocks.reshape(size, _OVERSAMPLING, size, _OVERSAMPLING).mean(axis=(1, 3)))


def render_world(
    folder: Path,
    *,
    clips: int,
    seed: int,
    frames: int = 9,
    size: int = 48,
    fps: int = 8,
    first: int = 0,
) -> None:
    """Write clips `first` to `first + clips - 1` of a seed as mp4 files with `metadata.jsonl`.

    A folder that already holds other clips keeps them; the list of clips is written last.
    """
    scenes = (draw_scene(seed, number) for number in range(first, first + clips))
    shown = ((scene.caption, render(scene, frames=frames, size=size)) for scene in scenes)
    write_clips(folder, shown, fps=fps, first=first)


def write_clips(
    folder: Path, clips: Iterable[tuple[str, np.ndarray]], *, fps: int, first: int = 0
) -> None:
    """Write captions and clips, uint8 `(f, h, w, 3)`, as a folder that ingestion reads."""
    rows = _read_rows(folder / "metadata.jsonl")
    for number, (caption, rgb_fhwc) in enumerate(clips, start=first):
        name = f"clip-{number:05d}.mp4"
        write_mp4(folder / name, rgb_fhwc, fps=fps)
        rows[name] = caption
    files.write_bytes(folder / "metadata.jsonl", _as_lines(sorted(rows.items())))


def _read_rows(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {row["file_name"]: row["text"] for row in rows}


def _as_lines(rows: Iterable[tuple[str, str]]) -> bytes:
    return "".join(
        json.dumps({"file_name": name, "text": text}) + "\n" for name, text in rows
    ).encode()


def _soften(cover_hw: np.ndarray) -> np.ndarray:
    """Spread edges over about two pixels, as a lens does; a small VAE draws such edges well."""
    for axis in (0, 1):
        ends = [(1, 1) if at == axis else (0, 0) for at in (0, 1)]
        wide = np.pad(cover_hw, ends, mode="edge")
        before, after = (
            np.take(wide, range(start, start + cover_hw.shape[axis]), axis=axis) for start in (0, 2)
        )
        cover_hw = 0.5 * cover_hw + 0.25 * (before + after)
    return cover_hw


def is_inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where a shape of radius 1 around the origin covers the plane; `y` points down."""
    far = np.maximum(abs(x), abs(y))
    distance = np.hypot(x, y)
    covers: dict[str, np.ndarray] = {
        "circle": distance <= 1,
        "square": far <= 0.85,
        "triangle": (y <= 0.8) & (2 * abs(x) <= y + 1.2),
        "diamond": abs(x) + abs(y) <= 1.1,
        "ring": (distance <= 1) & (distance >= 0.55),
        "cross": (far <= 1) & (np.minimum(abs(x), abs(y)) <= 0.33),
    }
    return covers[shape]
