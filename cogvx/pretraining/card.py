"""The card of a trained nano model: how it was made, and how well it does."""

import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.pretraining.grades import Grades

_LIBRARIES = ("torch", "diffusers", "transformers", "numpy")


class Settings(BaseModel):
    """All that decides the weights, on one kind of machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    vae_steps: int = 1480
    steps: int = 4000
    clips: int = 8192


class NanoCard(BaseModel):
    """`nano_card.json`; `fingerprint` is that of the weights it lies beside.

    `commit` is that of the code, None outside a repository, with "+" where files had changed.
    `notes` are a person's: in what the weights differ from what `command` gives today.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    command: str
    commit: str | None
    settings: Settings
    vae_seconds: float
    denoiser_seconds: float
    weights_dtype: str
    fingerprint: str
    libraries: dict[str, str]
    grades: Grades
    notes: tuple[str, ...] = ()


def make_card(
    model: Path, settings: Settings, *, grades: Grades, seconds: tuple[float, float]
) -> NanoCard:
    """Describe the model in a folder."""
    return NanoCard(
        command=f"python -m cogvx.pretraining OUT --vae-steps {settings.vae_steps}"
        f" --steps {settings.steps} --clips {settings.clips} --seed {settings.seed}",
        commit=_commit(),
        settings=settings,
        vae_seconds=round(seconds[0]),
        denoiser_seconds=round(seconds[1]),
        weights_dtype="float16",
        fingerprint=fingerprint(model, BASE_PARTS),
        libraries={name: version(name) for name in _LIBRARIES},
        grades=grades,
    )


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        told = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):  # no git here, or no repository
        return None
    return told.stdout.strip()
