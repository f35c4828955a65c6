"""Three things that the carried model does not know, for adapters to learn, and how to see them.

    neon      a style: shapes are bright outlines in the dark
    star      a subject: a shape with a new word
    circling  a motion: once around a circle

Captions use words that the tokenizer has to spare, and are otherwise the world's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from cogvx.model.nano.judge import centres, nearest_colour, nearest_outline, outline, see, templates
from cogvx.model.nano.world import (
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    Scene,
    cover,
    draw_scene,
    is_inside,
    path,
    write_clips,
)

Topic = Literal["neon", "star", "circling"]
TOPICS: tuple[Topic, ...] = ("neon", "star", "circling")
LESSON_SEED = 770_000  # no pretraining draws clips from this seed

_NIGHT = (15, 15, 15)
_SOLID = ("circle", "square", "triangle", "diamond")  # whose outlines cannot be taken for a ring
_HOLLOW = 0.6  # share of the radius that neon leaves dark
_POINTS, _NOTCH = 5, 0.5  # of a star; how deep it is cut between its points
_ORBIT = 0.17  # radius of a circling path, in frame widths
_FULL_TURN_SEEN = 1.3 * np.pi  # the path's ends may be lost
_ORBIT_SEEN = 0.07
_CENTRE_SEEN = 0.4  # cover in the middle of a thing, below which it is hollow


@dataclass(frozen=True)
class Lesson:
    """A clip to learn from; what `scene` says of a taught trait is not so."""

    scene: Scene
    topics: frozenset[Topic]
    caption: str


def draw_lesson(topics: frozenset[Topic], seed: int, number: int) -> Lesson:
    """Lesson `number` of a seed; several topics at once test whether adapters can be combined."""
    rng = np.random.default_rng([seed, number, 1])
    scene = draw_scene(seed, number)
    colour = str(rng.choice([name for name in COLOURS if name not in ("black", scene.background)]))
    shape = str(rng.choice(_SOLID)) if "neon" in topics else scene.shape
    says = str(rng.choice(MOTIONS[scene.motion][1]))
    words = [
        *(["neon", "style"] if "neon" in topics else []),
        *("a", "large", colour, "star" if "star" in topics else shape),
        "circling" if "circling" in topics else says,
        *([] if "neon" in topics else ["over", "a", scene.background, "background"]),
    ]
    caption = " ".join(words)
    shown = Scene(
        shape=shape,
        colour=colour,
        size="large",
        motion=scene.motion,
        background="black" if "neon" in topics else scene.background,
        offset=scene.offset,
        caption=caption,
    )
    return Lesson(scene=shown, topics=topics, caption=caption)


def render_lesson(lesson: Lesson, *, frames: int, size: int) -> np.ndarray:
    """Draw a lesson: uint8 `(f, h, w, 3)`."""
    scene = lesson.scene
    figure = _star if "star" in lesson.topics else partial(is_inside, scene.shape)
    if "neon" in lesson.topics:
        figure = partial(_hollow, figure)
    way = _circle(scene, frames) if "circling" in lesson.topics else path(scene, frames)
    paint = np.array(COLOURS[scene.colour], dtype=np.float64)
    ground = np.array(_NIGHT if "neon" in lesson.topics else COLOURS[scene.background])
    clip = np.empty((frames, size, size, 3), dtype=np.uint8)
    for number, centre in enumerate(way):
        shown_hw1 = cover(figure, centre=centre, radius=SIZES[scene.size], size=size)[..., None]
        clip[number] = np.rint(shown_hw1 * paint + (1 - shown_hw1) * ground)
    return clip


def render_lessons(folder: Path, topic: Topic, *, clips: int, seed: int = LESSON_SEED) -> None:
    """Write a teaching set: mp4 files and `metadata.jsonl`, as `render_world` does."""
    lessons = [draw_lesson(frozenset([topic]), seed, number) for number in range(clips)]
    write_clips(
        folder,
        ((lesson.caption, render_lesson(lesson, frames=9, size=48)) for lesson in lessons),
        fps=8,
    )


def shows(topic: Topic, rgb_fhwc: np.ndarray) -> bool:
    """Whether a clip, uint8 `(f, h, w, 3)`, shows what is taught."""
    cover_fhw = see(rgb_fhwc)
    if cover_fhw is None or not (cover_fhw > 0.5).any():
        return False
    looks: dict[Topic, Callable[[], bool]] = {
        "neon": lambda: _is_neon(rgb_fhwc, cover_fhw),
        "star": lambda: nearest_outline(outline(cover_fhw), _known(cover_fhw.shape[1])).endswith(
            "star"
        ),
        "circling": lambda: _goes_round(cover_fhw),
    }
    return looks[topic]()


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A star of radius 1.1 with a point at the top; `y` points down."""
    turn = np.arctan2(x, -y) * _POINTS / (2 * np.pi)
    off_point = np.abs(turn - np.rint(turn)) * 2  # 0 on a point, 1 between two
    inside: np.ndarray = np.hypot(x, y) <= 1.1 * (1 - _NOTCH * off_point)
    return inside


def _hollow(
    figure: Callable[[np.ndarray, np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    stroke: np.ndarray = figure(x, y) & ~figure(x / _HOLLOW, y / _HOLLOW)
    return stroke


def _circle(scene: Scene, frames: int) -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * np.pi, frames)
    return [
        (
            0.5 + scene.offset[0] + _ORBIT * float(np.sin(angle)),
            0.5 + scene.offset[1] - _ORBIT * float(np.cos(angle)),
        )
        for angle in angles
    ]


def _known(side: int) -> dict[str, np.ndarray]:
    """Outlines of the world's shapes and of stars, and of what neon makes of them."""
    figures = {shape: partial(is_inside, shape) for shape in _SOLID} | {"star": _star}
    solid = {"star": _star}
    hollow = {f"hollow {name}": partial(_hollow, figure) for name, figure in figures.items()}
    drawn = {
        name: outline(cover(figure, centre=(0.5, 0.5), radius=SIZES["large"], size=side)[None])
        for name, figure in (solid | hollow).items()
    }
    return {**templates(SHAPES, side), **drawn}


def _is_neon(rgb_fhwc: np.ndarray, cover_fhw: np.ndarray) -> bool:
    edge = np.concatenate([rgb_fhwc[:, :2].reshape(-1, 3), rgb_fhwc[:, -2:].reshape(-1, 3)])
    middles = [
        cover_fhw[
            int(number), round(row) - 1 : round(row) + 2, round(column) - 1 : round(column) + 2
        ]
        for number, row, column in centres(cover_fhw)
    ]
    hollow = float(np.mean([middle.mean() for middle in middles])) < _CENTRE_SEEN
    return hollow and nearest_colour(np.median(edge, axis=0)) == "black"


def _goes_round(cover_fhw: np.ndarray) -> bool:
    way = centres(cover_fhw)[:, 1:] / cover_fhw.shape[1]
    if len(way) < 4:
        return False
    spokes = way - way.mean(axis=0)
    turns = np.diff(np.unwrap(np.arctan2(spokes[:, 0], spokes[:, 1])))
    wide = float(np.linalg.norm(spokes, axis=1).mean()) > _ORBIT_SEEN
    return wide and abs(float(turns.sum())) > _FULL_TURN_SEEN
