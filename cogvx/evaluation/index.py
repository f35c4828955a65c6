"""What an evaluation keeps in the store: videos, held-out losses and embeddings, by their places.

Written before the first video is looked for, so that housekeeping keeps what is about to be used.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class EvaluationIndex(BaseModel):
    """Every arm's videos and held-out losses, and the prompts' embeddings, there or not yet.

    What was measured on the videos is not here: it is worth no more than the time it takes. Older
    indexes name no prompts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    videos: tuple[str, ...]
    heldout: tuple[str, ...]
    prompts: tuple[str, ...] = ()

    def reaches(self) -> set[str]:
        """Where all of it lies."""
        return {*self.videos, *self.heldout, *self.prompts}


def evaluation_path(run: str, judged: str) -> str:
    """Where the index of a run's evaluation lies; `judged` is the digest of suite and rule."""
    return f"runs/{run}/evaluations/{judged}.json"
