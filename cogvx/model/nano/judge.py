"""Read from a clip's pixels what it shows of the nano model's world, without anything learned.

The frame's border tells the background, what differs most from it is the thing that moves, and the
thing's outline is held against the outlines that the world draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from scipy.ndimage import map_coordinates

from cogvx.model.nano.world import COLOURS, MOTIONS, SHAPES, SIZES, Scene, cover, is_inside

TRAITS = ("background", "colour", "motion", "shape")
CHANCE = {
    "background": 1 / len(COLOURS),
    "colour": 1 / len(COLOURS),
    "motion": 1 / len(MOTIONS),
    "shape": 1 / len(SHAPES),
}

_BORDER = 2  # pixels
_PUREST = 0.02  # share of all pixels that tell the thing's colour: those least like the background
_VISIBLE = 60.0  # smallest distance in RGB at which there is a thing at all
_MOVED = 0.15  # share of the frame that a moving thing has crossed; the world's cross 0.4
_MIDDLE = (0.5, 0.5)
_GRID, _REACH = (
    24,
    1.3,
)  # a normalised outline: cells, and half its side in roots of the thing's area


@dataclass(frozen=True)
class Reading:
    """What a clip shows; None where there is no thing to be seen."""

    background: str
    colour: str | None
    motion: str | None
    shape: str | None


def read(rgb_fhwc: np.ndarray) -> Reading:
    """Read a clip, uint8 `(f, h, w, 3)` with h = w."""
    ground = _ground(rgb_fhwc)
    paint = _paint(rgb_fhwc, ground)
    background = nearest_colour(ground)
    if paint is None:
        return Reading(background=background, colour=None, motion=None, shape=None)
    cover_fhw = _cover(rgb_fhwc, ground, paint)
    shape = nearest_outline(outline(cover_fhw), templates(SHAPES, cover_fhw.shape[1]))
    return Reading(
        background=background,
        colour=nearest_colour(paint),
        motion=_motion(cover_fhw),
        shape=shape,
    )


def right_traits(reading: Reading, scene: Scene) -> dict[str, bool]:
    """Which traits of a scene a reading agrees with."""
    return {trait: getattr(reading, trait) == getattr(scene, trait) for trait in TRAITS}


def nearest_colour(rgb: np.ndarray) -> str:
    """Name of the world's colour that is nearest."""
    return min(COLOURS, key=lambda name: float(np.linalg.norm(rgb - np.array(COLOURS[name]))))


def see(rgb_fhwc: np.ndarray) -> np.ndarray | None:
    """How much of each pixel the thing covers, 0 to 1, `(f, h, w)`; None where there is none."""
    ground = _ground(rgb_fhwc)
    paint = _paint(rgb_fhwc, ground)
    return None if paint is None else _cover(rgb_fhwc, ground, paint)


def centres(cover_fhw: np.ndarray) -> np.ndarray:
    """Frame number, row and column of the thing's middle, for every frame that shows it."""
    seen = [number for number, frame in enumerate(cover_fhw) if (frame > 0.5).any()]
    return np.array([(number, *_centre(cover_fhw[number])) for number in seen]).reshape(-1, 3)


def outline(cover_fhw: np.ndarray) -> np.ndarray:
    """The thing at one size and place, averaged over the frames that show all of it."""
    solid_fhw = np.where(cover_fhw > 0.5, cover_fhw, 0)
    whole = [frame for frame in solid_fhw if frame.any() and not _is_cut(frame)]
    shown = whole or [frame for frame in solid_fhw if frame.any()]
    cells = (np.arange(_GRID) + 0.5) / _GRID * 2 - 1
    outlines = []
    for frame in shown:
        reach = _REACH * np.sqrt((frame > 0).sum())
        down, right = (centre + cells * reach for centre in _centre(frame))
        grid = np.meshgrid(down, right, indexing="ij")
        outlines.append(map_coordinates(frame, grid, order=1))
    mean: np.ndarray = np.mean(outlines, axis=0)
    return mean


def nearest_outline(drawn: np.ndarray, known: Mapping[str, np.ndarray]) -> str:
    """Name of the known outline that differs least."""
    return min(known, key=lambda name: float(np.square(drawn - known[name]).sum()))


@cache
def templates(shapes: tuple[str, ...], side: int) -> Mapping[str, np.ndarray]:
    """The outline of every shape, as it is drawn at both of the world's sizes."""
    return {shape: np.mean(_drawn(shape, side), axis=0) for shape in shapes}


def _drawn(shape: str, side: int) -> list[np.ndarray]:
    inside = partial(is_inside, shape)
    covers = (cover(inside, centre=_MIDDLE, radius=size, size=side) for size in SIZES.values())
    return [outline(cover_hw[None]) for cover_hw in covers]


def _paint(rgb_fhwc: np.ndarray, ground: np.ndarray) -> np.ndarray | None:
    """Colour of the thing; None where nothing differs enough from the background."""
    far_fhw = np.linalg.norm(rgb_fhwc - ground, axis=-1)
    limit = np.quantile(far_fhw, 1 - _PUREST)
    if limit < _VISIBLE:
        return None
    paint: np.ndarray = np.median(rgb_fhwc[far_fhw >= limit], axis=0)
    return paint


def _cover(rgb_fhwc: np.ndarray, ground: np.ndarray, paint: np.ndarray) -> np.ndarray:
    towards = paint - ground
    share_fhw: np.ndarray = np.clip((rgb_fhwc - ground) @ towards / (towards @ towards), 0, 1)
    return share_fhw


def _ground(rgb_fhwc: np.ndarray) -> np.ndarray:
    """Median of those border pixels that bear the commonest name."""
    inner = np.zeros(rgb_fhwc.shape[1:3], dtype=bool)
    inner[_BORDER:-_BORDER, _BORDER:-_BORDER] = True
    border = rgb_fhwc[:, ~inner].reshape(-1, 3).astype(np.float64)
    palette = np.array(list(COLOURS.values()), dtype=np.float64)
    names = np.linalg.norm(border[:, None] - palette, axis=-1).argmin(axis=1)
    median: np.ndarray = np.median(border[names == np.bincount(names).argmax()], axis=0)
    return median


def _motion(cover_fhw: np.ndarray) -> str:
    """Direction of the straight line that fits the thing's path best."""
    path = centres(cover_fhw)
    if len(path) < 2:
        return "still"
    down, right = (
        np.polyfit(path[:, 0], path[:, 1:], 1)[0] * (len(cover_fhw) - 1) / cover_fhw.shape[1]
    )
    if max(abs(down), abs(right)) < _MOVED:
        return "still"
    if abs(right) > abs(down):
        return "right" if right > 0 else "left"
    return "down" if down > 0 else "up"


def _is_cut(cover_hw: np.ndarray) -> bool:
    edges = (cover_hw[0], cover_hw[-1], cover_hw[:, 0], cover_hw[:, -1])
    return any(edge.any() for edge in edges)


def _centre(cover_hw: np.ndarray) -> np.ndarray:
    """Row and column of the middle of what is covered by more than half."""
    middle: np.ndarray = np.argwhere(cover_hw > 0.5).mean(axis=0)
    return middle
