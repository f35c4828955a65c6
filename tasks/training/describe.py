"""Tell a person what a version is: its page when it is registered, and again once it was judged.

What lies beside a registered model never changes, so frames and the verdict lie with its MLflow
run, below `card`, and the version's description shows them. A few videos of the reference beside
the version's own lie below `samples`, where MLflow's pages play them.
"""

import dataclasses
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cogvx import files
from cogvx.adapters.card import read_card
from cogvx.errors import IntegrityError
from cogvx.runs.folder import TrainOutcome
from tasks.clients.model_card import (
    FRAMES,
    Judged,
    ModelPage,
    Taught,
    artifact_link,
    description,
    model_card,
    recipe_toml,
)
from tasks.training.finished import finished_run
from tasks.workbench import Workbench

if TYPE_CHECKING:
    from cogvx.evaluation.documents import EvaluationReport
    from cogvx.evaluation.gallery import Videos
    from tasks.clients.registry import Registry, Version

_FOLDER, _FRAMES = FRAMES.split("/")
_SAMPLES = "samples"
_MOST_PROMPTS = 3
_PAGE_WIDTH = 1000


def page_of(bench: Workbench, adapter_file: Path) -> ModelPage:
    """What is known of the newest manifest's adapter before it was judged.

    Raises:
        IntegrityError: The file is no adapter of ours.
    """
    card = read_card(adapter_file)
    if card is None:
        raise IntegrityError(f"{adapter_file} has no card, so nobody can say what it is")
    manifest = bench.latest_manifest()
    outcome = finished_run(bench, card.run) if card.run else None
    taught = Taught(
        dataset=bench.dataset.url,
        trained_on=manifest.count_clips(manifest.train),
        held_out=manifest.count_clips(manifest.heldout),
    )
    return ModelPage(
        name=bench.recipe.name,
        card=card,
        recipe=bench.recipe,
        variant=bench.facts.variant,
        taught=taught if outcome is None else _told(taught, outcome),
    )


def pages_of(page: ModelPage) -> dict[str, str]:
    """The texts that lie beside a registered model."""
    return {"README.md": model_card(page), "recipe.toml": recipe_toml(page.recipe)}


def describe_registered(registry: "Registry", version: "Version", page: ModelPage) -> None:
    """Show the page on a version that nobody has judged yet."""
    registry.describe_version(version.name, version.version, description(page))


def describe_judged(
    registry: "Registry",
    version: "Version",
    page: ModelPage,
    report: "EvaluationReport",
    videos: "Videos",
) -> None:
    """Show a few frames and the verdict on a version, and keep both with its MLflow run.

    Videos of the same prompts are kept with it, the reference's beside the version's own.
    """
    verdict = report.verdict
    judged = Judged(
        outcome=verdict.outcome,
        headline=verdict.headline,
        reasons=verdict.reasons,
        reference=verdict.reference,
        picture=_FRAMES,
    )
    page = dataclasses.replace(page, judged=judged)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files.write_bytes(folder / _FRAMES, _frames(version, report, videos))
        for name, text in pages_of(page).items():
            files.write_bytes(folder / name, text.encode())
        registry.log_artifact(version.run_id, folder, folder=_FOLDER)
    with tempfile.TemporaryDirectory() as scratch:
        _write_samples(Path(scratch), report, videos)
        registry.log_artifact(version.run_id, Path(scratch), folder=_SAMPLES)
    link = artifact_link(version.run_id, FRAMES)
    shown = dataclasses.replace(page, judged=dataclasses.replace(judged, picture=link))
    registry.describe_version(version.name, version.version, description(shown))


def _told(taught: Taught, outcome: TrainOutcome) -> Taught:
    return dataclasses.replace(
        taught,
        train_loss=outcome.train_loss,
        heldout_before=outcome.heldout_before,
        heldout_after=outcome.heldout_after,
        best_step=outcome.best_step,
    )


def _frames(version: "Version", report: "EvaluationReport", videos: "Videos") -> bytes:
    """The first prompts at the first seed, every arm below the other: MLflow's pages are narrow."""
    from cogvx.pages.contact_sheet import contact_sheet  # noqa: PLC0415 - decodes videos

    seed, arms = report.seeds[0], [arm.name for arm in report.arms]
    rows = [
        (f"{arm}: {words}", [videos.get((arm, prompt, seed))])
        for prompt, words in list(report.prompts.items())[:_MOST_PROMPTS]
        for arm in arms
    ]
    title = f"{version.name} version {version.version}, seed {seed}"
    return contact_sheet(rows, [""], title, most_width=_PAGE_WIDTH)


def _write_samples(folder: Path, report: "EvaluationReport", videos: "Videos") -> None:
    """One file a prompt, at the first seed; of a prompt that lacks a video there is none."""
    from cogvx.pages.beside import videos_beside  # noqa: PLC0415 - decodes videos

    arms, seed = (report.verdict.reference, report.verdict.candidate), report.seeds[0]
    for prompt in list(report.prompts)[:_MOST_PROMPTS]:
        found = [(arm, videos.get((arm, prompt, seed))) for arm in arms]
        sides = [(arm, path) for arm, path in found if path is not None]
        if len(sides) == len(arms):
            name = re.sub(r"[^\w.-]+", "-", prompt)
            videos_beside(sides, folder / f"{name}-seed-{seed}.mp4")
