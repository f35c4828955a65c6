"""What stands beside a checkpoint's tensors: how far the run is, and what makes it whole.

Read without torch, by whoever carries checkpoints from one place to another.
"""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from cogvx.runs.origin import Origin
from cogvx.runs.tally import Tally

STATE_FILE = "state.json"
_NAME = re.compile(r"step-(\d{8})")

FileName = Annotated[str, Field(pattern=r"^[a-z0-9_]+\.safetensors$")]
"""Of a file of tensors: never a path that leads out of the checkpoint's folder."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Best(_Document):
    """The best held-out loss of trained weights, and the step that it was measured after.

    `measured` is the step of the last measurement, and `worse` counts those since the best one.
    """

    step: int
    loss: float
    measured: int
    worse: int = 0


class Progress(_Document):
    """How far a run is, besides its tensors.

    `tally` is of the updates since the last log line; `train_loss` the mean of the window before;
    `scaler` is what fp16's gradient scaler needs, empty elsewhere. `skipped` counts updates that
    were left out, and `skipped_in_a_row` those since the last that was not. `best` is None without
    train.early_stop_patience.
    """

    step: int = 0
    seconds: float = 0.0
    tally: Tally = Tally()
    train_loss: float | None = None
    heldout_before: float | None = None
    scaler: dict[str, int | float] = {}
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: Best | None = None


class CheckpointState(_Document):
    """state.json. `footing` is what the next bits may depend on besides: versions, layout."""

    schema_version: Literal[1] = 1
    run: str
    origin: Origin
    progress: Progress
    sha256: dict[FileName, str]
    footing: dict[str, str]


class Pointer(_Document):
    """latest.json: the newest whole checkpoint, for readers from outside."""

    step: int
    folder: str


def folder_name(step: int) -> str:
    """The name of the folder of the checkpoint after so many updates; names sort like steps."""
    return f"step-{step:08d}"


def is_folder_name(name: str) -> bool:
    """Whether a folder of this name is a checkpoint."""
    return _NAME.fullmatch(name) is not None


def step_of(name: str) -> int:
    """How many updates a checkpoint was saved after, by its folder's name."""
    return int(name.removeprefix("step-"))
