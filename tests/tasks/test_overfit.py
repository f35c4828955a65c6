"""The overfit gap: the trainer's own losses on clips of both kinds, in nobody's way."""

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from cogvx.cache.plan import Identities, record_paths, samples
from cogvx.data.manifest import Clip, ClipFacts, Manifest
from cogvx.evaluation.render import Arm
from cogvx.inference.session import Session
from cogvx.objective.heldout import heldout_losses
from cogvx.objective.objective import Objective
from cogvx.runs.folder import RunFolder
from tasks.evaluation.overfit import overfit_of
from tasks.workbench import Workbench
from tests.evaluation.conftest import write_adapter
from tests.tasks.test_heldout import bench_over, never, opened

BASE = Arm("base")


class Bench:
    """A run of four training and two held-out clips, as a manifest and a workbench."""

    def __init__(self, root: Path) -> None:
        bench, spec = bench_over(root)
        cache = bench.recipe.cache.model_copy(update={"prompt_batch": 1})
        self.bench: Workbench = replace(
            bench,
            recipe=bench.recipe.model_copy(update={"cache": cache}),
            ids=Identities(vae="vae", text="t5"),
        )
        self.folder = RunFolder(root)
        self.manifest = Manifest(
            dataset="toy",
            clips=tuple(
                Clip(
                    key=sample.clip,
                    sha256=f"{number:064x}",
                    caption=sample.caption,
                    facts=ClipFacts(width=48, height=48, frames=9, fps=8.0, codec="h264"),
                    size=sample.size,
                    split="train" if number < len(spec.train) else "heldout",
                )
                for number, sample in enumerate((*spec.train, *spec.heldout))
            ),
        )

    def losses(self, session: Session) -> dict[tuple[str, int], float]:
        """Loss by clip and timestep, by the trainer's own measurement."""
        windows = samples(
            self.manifest.clips, self.bench.recipe, facts=self.bench.facts, ids=self.bench.ids
        )
        losses = heldout_losses(
            session.transformer,
            Objective.of(self.bench.base),
            samples=windows,
            records=self.folder.records,
            strata=self.bench.recipe.train.heldout_strata,
        )
        return {(loss.clip, loss.timestep): loss.loss for loss in losses}


@pytest.fixture
def ours(new_run: Callable[..., Path]) -> Bench:
    return Bench(new_run())


def test_the_gap_is_between_as_many_clips_of_either_kind(ours: Bench, tmp_path: Path) -> None:
    session = opened(ours.bench)
    train, heldout = (
        [clip.key for clip in clips] for clips in (ours.manifest.train, ours.manifest.heldout)
    )
    for arm in (BASE, Arm("mine", (write_adapter(ours.bench.base, tmp_path, seed=1),))):
        found = overfit_of(ours.bench, arm, ours.manifest, lambda: session)
        for number, adapter in enumerate(arm.adapters):
            session.attach(str(number), adapter.path)
            session.use({str(number): 1.0})
        losses = ours.losses(session)
        timesteps = list(dict.fromkeys(timestep for _, timestep in losses))
        possible = [
            [
                np.mean([losses[clip, t] for clip in heldout])
                - np.mean([losses[clip, t] for clip in pair])
                for t in timesteps
            ]
            for pair in combinations(train, 2)
        ]
        fits = [[one.value for one in found] == pytest.approx(each) for each in possible]
        assert sum(fits) == 1, "two of the four, and the same two at every timestep"
        assert [(one.metric, one.unit) for one in found] == [("overfit_gap", "clips")] * 2
        assert [one.draw for one in found] == timesteps


def test_it_is_measured_once_and_on_the_same_clips_whatever_their_order(ours: Bench) -> None:
    first = overfit_of(ours.bench, BASE, ours.manifest, lambda: opened(ours.bench))
    assert overfit_of(ours.bench, BASE, ours.manifest, never) == first
    train, heldout = ours.manifest.train, ours.manifest.heldout
    turned = ours.manifest.model_copy(update={"clips": (*train[::-1], *heldout)})
    assert overfit_of(ours.bench, BASE, turned, never) == first


def test_without_clips_of_both_kinds_there_is_none(ours: Bench) -> None:
    for clips in (ours.manifest.train, ours.manifest.heldout):
        manifest = ours.manifest.model_copy(update={"clips": clips})
        assert overfit_of(ours.bench, BASE, manifest, never) == ()


def test_lost_records_cost_the_gap_and_nothing_else(
    ours: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    windows = samples(
        ours.manifest.train, ours.bench.recipe, facts=ours.bench.facts, ids=ours.bench.ids
    )
    for path in record_paths(windows).values():
        ours.bench.store.delete(path)
    with caplog.at_level(logging.WARNING, logger="tasks.evaluation.overfit"):
        assert overfit_of(ours.bench, BASE, ours.manifest, lambda: opened(ours.bench)) == ()
    assert "the overfit gap of base is not measured" in caplog.text
