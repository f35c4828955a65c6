"""What measuring held-out clips adds to a run: forward passes, at the curve's points and both ends.

Training sees a clip forth and back, with much computed again; a held-out clip is seen forth alone,
but at several timesteps. Processes share the windows out, and wait for whoever has one more.
"""

from dataclasses import dataclass
from math import ceil

from pydantic import BaseModel, ConfigDict

from cogvx.recipe import Recipe


@dataclass(frozen=True)
class HeldoutWindows:
    """Windows that are held out: behind a point of the curve, and in all."""

    curve: int
    total: int

    @classmethod
    def expected(cls, recipe: Recipe, clips: int | None) -> "HeldoutWindows":
        """As many as a split would hold out beside `clips` to train on, one window of each.

        Without their number, as many as the curve takes.
        """
        dataset, most = recipe.dataset, recipe.train.heldout_clips
        share = dataset.heldout_share
        total = max(dataset.min_heldout, most) if share or dataset.min_heldout else 0
        if clips is not None:
            total = max(dataset.min_heldout, round(clips * share / (1 - share)))
        return cls(curve=min(most or total, total), total=total)


class HeldoutCost(BaseModel):
    """Held-out measurements: points between the first and the last, windows behind each and in all.

    `share` is that of the time of training and measuring together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    points: int
    curve: int
    windows: int
    share: float


def points(recipe: Recipe) -> int:
    """Points of the curve between the first and the last."""
    return (recipe.train.steps - 1) // recipe.train.heldout_every


def passes(recipe: Recipe, windows: HeldoutWindows) -> int:
    """Forward passes of the busiest process over a whole run."""
    train = recipe.train
    between = points(recipe) * ceil(windows.curve / train.processes)
    return train.heldout_strata * (between + 2 * ceil(windows.total / train.processes))
