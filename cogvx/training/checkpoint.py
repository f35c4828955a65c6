"""Checkpoints: saved aside, renamed, read back, pointed at, and only then are old ones removed.

checkpoints/step-00000200/
    lora.safetensors        the adapter's weights, alpha not baked in
    optimiser.safetensors   the optimiser's state, one named tensor each
    ema.safetensors         the running mean of the weights, where the recipe asks for one
    best.safetensors        the weights with the best held-out loss, where it may stop early
    state.json              CheckpointState: whose it is, how far, digests of the other files
checkpoints/latest.json     Pointer, written last

A run goes on from its newest checkpoint, or not at all. A damaged one is never passed over, since
that would quietly undo work: the error names what to remove, and a person decides. It is the same
when all are gone, and only events.jsonl still tells of them.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from safetensors.torch import load_file, save
from torch import Tensor

from cogvx import files
from cogvx.digest import sha256_bytes, sha256_file
from cogvx.errors import IntegrityError
from cogvx.runs.events import Event, EventWriter, history
from cogvx.runs.folder import RunFolder, RunSpec
from cogvx.runs.origin import Origin, changes, refusal
from cogvx.runs.saved import (
    STATE_FILE,
    CheckpointState,
    Pointer,
    Progress,
    folder_name,
    is_folder_name,
    step_of,
)

__all__ = ["STATE_FILE", "Checkpoint", "CheckpointState", "Checkpoints", "Pointer", "Progress"]

LORA, OPTIMISER, EMA, BEST = "lora", "optimiser", "ema", "best"
_NEEDED = (LORA, OPTIMISER)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    `tensors` holds what becomes a file each: `LORA`, `OPTIMISER`, and what else a run needs.
    """

    progress: Progress
    tensors: Mapping[str, Mapping[str, Tensor]]
    footing: Mapping[str, str]


def tensor_file(name: str) -> str:
    """The file in a checkpoint's folder that holds the tensors of this name."""
    return f"{name}.safetensors"


class Checkpoints:
    """The checkpoints of one run folder; one process writes, any may read."""

    def __init__(self, folder: RunFolder, *, run: str, origin: Origin, keep: int) -> None:
        """`run` is the digest that every checkpoint must carry; `keep` newest ones stay."""
        self.run_folder = folder
        self.folder = folder.checkpoints
        self.latest = folder.latest
        self.events = folder.events
        self.run = run
        self.origin = origin
        self.keep = keep

    @classmethod
    def of(cls, folder: RunFolder, spec: RunSpec) -> Self:
        """The checkpoints of the run that `spec` describes."""
        keep = spec.recipe.train.keep_checkpoints
        return cls(folder, run=spec.run, origin=Origin.of(spec), keep=keep)

    def save(self, checkpoint: Checkpoint) -> str:
        """Write a checkpoint, verify it, move the pointer, remove what is too old.

        Returns:
            The name of its folder.

        Raises:
            IntegrityError: What the disk gives back is not what was written.
        """
        name = folder_name(checkpoint.progress.step)
        tensors = {
            tensor_file(part): save(dict(named)) for part, named in checkpoint.tensors.items()
        }
        state = CheckpointState(
            run=self.run,
            origin=self.origin,
            progress=checkpoint.progress,
            sha256={file: sha256_bytes(data) for file, data in tensors.items()},
            footing=dict(checkpoint.footing),
        )

        def fill(aside: Path) -> None:
            for file, data in tensors.items():
                (aside / file).write_bytes(data)
            files.write_document(aside / STATE_FILE, state)

        files.write_folder(self.folder / name, fill)
        self._verified_state(self.folder / name)
        self._point_at(name)
        for old in self._folders()[: -self.keep]:
            shutil.rmtree(old)
        return name

    def newest(self) -> Checkpoint | None:
        """The checkpoint to go on from; None when the run has none yet.

        Raises:
            ConfigError: It was made by another recipe, other clips, another base or other code;
                what differs is spelt out.
            IntegrityError: It is damaged or gone.
        """
        folders = self._folders()
        self._require_pointed_at(folders)
        if not folders:
            self._require_never_saved()
            return None
        folder = folders[-1]
        state = self._verified_state(folder)
        # its name alone says nothing of a run.json that a person has edited
        if state.run != self.run or changes(state.origin, self.origin):
            raise refusal(self.run_folder, state.origin, run=state.run)
        return Checkpoint(
            progress=state.progress,
            tensors={Path(file).stem: load_file(folder / file) for file in state.sha256},
            footing=state.footing,
        )

    def tidy(self) -> None:
        """Finish or remove what a killed writer left: folders written aside, a pointer not moved.

        A folder under its own name is whole, since it was renamed when it was; the pointer follows.
        One that cannot be read is written again, or removed where there is nothing to name.
        """
        for path in self.folder.glob("*") if self.folder.is_dir() else ():
            if files.is_aside(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        folders = self._folders()
        try:
            pointed_at = self._pointed_at()
        except IntegrityError:
            self._mend_pointer(folders)
            return
        if folders and (pointed_at is None or pointed_at < folders[-1].name):
            self._point_at(folders[-1].name)

    def _mend_pointer(self, folders: list[Path]) -> None:
        """Say again what the pointer said, by the folders, and by the events if they know more."""
        saved = [event["folder"] for event in self._saved()]
        name = max([folder.name for folder in folders] + saved[-1:], default=None)
        if name is None:
            self.latest.unlink()
            how = "removed: there is no checkpoint"
        else:
            self._point_at(name)
            how = f"written again; it names {name}"
        text = f"{self.latest} could not be read and was {how}"
        EventWriter(self.events).write("warning", text=text)

    def _folders(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        found = self.folder.glob("step-*") if self.folder.is_dir() else ()
        return sorted(path for path in found if is_folder_name(path.name) and path.is_dir())

    def _pointed_at(self) -> str | None:
        return files.read_document(self.latest, Pointer).folder if self.latest.is_file() else None

    def _point_at(self, name: str) -> None:
        files.write_document(self.latest, Pointer(step=step_of(name), folder=name))

    def _require_pointed_at(self, folders: list[Path]) -> None:
        pointed_at = self._pointed_at()
        if pointed_at is None or pointed_at in {folder.name for folder in folders}:
            return
        raise IntegrityError(
            f"{self.folder / pointed_at} is gone, though {self.latest} names it; put it back, or "
            f"remove {self.latest}{self._to_go_on_without(folders)}"
        )

    def _require_never_saved(self) -> None:
        """Refuse to begin at step 0 where earlier tries had got further."""
        saved = self._saved()
        if saved:
            raise IntegrityError(
                f"{self.folder / saved[-1]['folder']} is gone, though {self.events} records it; "
                f"put it back, or remove {self.events} to start again from step 0"
            )

    def _saved(self) -> list[Event]:
        """The events of the checkpoints that were not undone."""
        return [event for event in history(self.events) if event["kind"] == "checkpoint"]

    def _to_go_on_without(self, folders: list[Path]) -> str:
        """What else to remove when those are the checkpoints that stay, and what follows."""
        if folders:
            return f" to go on from {folders[-1].name}"
        return f" and {self.events} to start again from step 0"

    def _verified_state(self, folder: Path) -> CheckpointState:
        """The state of a checkpoint whose every file is what it was when it was written."""
        faults = []
        try:
            state = files.read_document(folder / STATE_FILE, CheckpointState)
            faults += [
                f"{STATE_FILE} names no {tensor_file(name)}"
                for name in _NEEDED
                if tensor_file(name) not in state.sha256
            ]
            for file, wanted in state.sha256.items():
                if sha256_file(folder / file) != wanted:
                    faults.append(f"{file} is not what was written")
        except FileNotFoundError as error:
            faults.append(f"{Path(error.filename).name} is missing")
        except IntegrityError:
            faults.append(f"{STATE_FILE} cannot be read")
        if faults:
            older = [other for other in self._folders() if other != folder]
            raise IntegrityError(
                f"checkpoint {folder} is damaged: {'; '.join(faults)}. Remove it and {self.latest}"
                f"{self._to_go_on_without(older)}"
            )
        return state
