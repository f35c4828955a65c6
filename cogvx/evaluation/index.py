"""What an evaluation keeps in the store: videos, held-out losses and embeddings, by their places.

Written before the first video is looked for, so that housekeeping keeps what is about to be used.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class EvaluationIndex(BaseModel):
    """Every arm's videos and held-out losses, and the prompts' embeddings, there or not yet.

    `features` are what encoders read off the videos. Older indexes name neither of the last two.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    videos: tuple[str, ...]
    heldout: tuple[str, ...]
    prompts: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    def reaches(self) -> set[str]:
        """Where all of it lies."""
        return {*self.videos, *self.heldout, *self.prompts, *self.features}


def evaluation_path(run: str, judged: str) -> str:
    """Where the index of a run's evaluation lies; `judged` is the digest of suite and rule."""
    return f"runs/{run}/evaluations/{judged}.json"
