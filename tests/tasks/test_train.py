"""Preparing a run: its document is never changed under whoever trains it."""

from dataclasses import replace

import pytest

from cogvx.runs.folder import RunFolder
from cogvx.runs.lock import Held, hold
from tasks.ingest import survey_clips
from tasks.records import RecordsLost
from tasks.train import prepare_run
from tasks.workbench import Workbench
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
