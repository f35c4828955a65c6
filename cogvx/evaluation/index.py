"""What an evaluation keeps in the store: its videos and held-out losses, by their places.

Written before the first video is looked for, so that housekeeping keeps what is about to be used.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class EvaluationIndex(BaseModel):
    """Every arm's videos and held-out losses, whether or not they exist yet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    videos: tuple[str, ...]
    heldout: tuple[str, ...]


def evaluation_path(run: str, judged: str) -> str:
    """Where the index of a run's evaluation lies; `judged` is the digest of suite and rule."""
    return f"runs/{run}/evaluations/{judged}.json"
