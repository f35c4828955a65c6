"""Preparing a run: its document is never changed under whoever trains it."""

import logging
from dataclasses import replace

import pytest

from cogvx.errors import ConfigError
from cogvx.runs.folder import RunFolder
from cogvx.runs.lock import Held, hold
from tasks.caching.ingest import survey_clips
from tasks.caching.records import RecordsLost
from tasks.training.prepare_run import prepare_run
from tasks.training.train import _launch
from tasks.workbench import Workbench
from tests.fixtures.away import prefect_that_answers
from tests.tasks.test_survey import bench

__all__ = ["bench"]


def test_a_run_that_is_trained_elsewhere_keeps_its_document(bench: Workbench) -> None:
    survey_clips.fn(bench)
    manifest = bench.latest_manifest()
    run = bench.run_identity(manifest)
    folder = RunFolder(bench.settings.run_folder(run))
    with pytest.raises(RecordsLost):  # nothing was encoded; the document comes first
        prepare_run(bench, manifest, run)
    assert folder.read_spec().warnings == ()
    warned = replace(bench, warnings=("the clips are few",))
    with hold(folder.lock), pytest.raises(Held, match="is training this run"):
        prepare_run(warned, manifest, run)
    assert folder.read_spec().warnings == ()
    with pytest.raises(RecordsLost):
        prepare_run(warned, manifest, run)
    assert folder.read_spec().warnings == ("the clips are few",)


def test_the_first_batch_waits_for_a_gpus_slot_as_training_does(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    survey_clips.fn(bench)
    manifest = bench.latest_manifest()
    run = bench.run_identity(manifest)
    folder = RunFolder(bench.settings.run_folder(run))
    with pytest.raises(RecordsLost):
        prepare_run(bench, manifest, run)
    shared = bench.settings.model_copy(update={"gpu_slots": "no-such-limit"})
    caplog.set_level(logging.INFO, "tasks")
    with (
        prefect_that_answers({}),
        pytest.raises(ConfigError, match=r"no-such-limit.* is no concurrency limit"),
    ):
        _launch(replace(bench, settings=shared), folder, run, manifest)
    assert "first batch" not in caplog.text
