"""Which held-out clips are measured when: a few for the curve, all at the start and at the end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogvx.files import read_document, write_document
from cogvx.objective.heldout import by_clip, heldout_losses, mean_loss
from cogvx.runs.events import Event, history
from cogvx.runs.folder import RunFolder, RunSpec, TrainOutcome
from cogvx.training.__main__ import main
from cogvx.training.exam import curve_clips
from cogvx.training.stop import EXIT_STOPPED
from tests.fixtures.training_runs import open_trainer
from tests.training.stops import stop_after

NewRun = Callable[..., Path]
SETTINGS: dict[str, Any] = {
    "clips": 2,
    "heldout": 5,
    "steps": 6,
    "learning_rate": 0.1,
    "checkpoint_every": 2,
    "heldout_every": 2,
    "heldout_strata": 1,
    "heldout_clips": 2,
    "log_every": 6,
}


def events_of(root: Path, kind: str) -> list[Event]:
    return [event for event in history(RunFolder(root).events) if event["kind"] == kind]


def two_windows_a_clip(root: Path) -> Path:
    """The first two held-out windows are one clip's."""
    folder = RunFolder(root)
    spec = folder.read_spec()
    first, second, *others = spec.heldout
    heldout = (first, second.model_copy(update={"clip": first.clip}), *others)
    write_document(folder.spec, spec.model_copy(update={"heldout": heldout}))
    return root


def expected(root: Path, clips: int) -> float:
    """The bare base's loss on the first clips, all windows of each."""
    trainer, spec = open_trainer(root), read_document(RunFolder(root).spec, RunSpec)
    names = list(dict.fromkeys(sample.clip for sample in spec.heldout))[:clips]
    losses = heldout_losses(
        trainer.transformer,
        trainer.learner.objective,
        samples=[sample for sample in spec.heldout if sample.clip in names],
        records=RunFolder(root).records,
        strata=1,
    )
    return mean_loss(by_clip(losses))


@pytest.fixture(scope="module")
def whole(new_run: NewRun) -> Path:
    root = two_windows_a_clip(new_run(**SETTINGS))
    assert main([str(root)]) == 0
    return root


def test_every_point_of_the_curve_is_over_the_same_first_clips(whole: Path) -> None:
    points = events_of(whole, "heldout")
    assert [point["step"] for point in points] == [0, 2, 4, 6]
    assert [point["clips"] for point in points] == [2] * 4
    assert all(point["loss"] == point["by_timestep"]["500"] for point in points)
    assert points[0]["loss"] == expected(bare_copy(whole), 2)


def test_all_clips_are_measured_at_the_start_and_at_the_end(whole: Path) -> None:
    first, last = events_of(whole, "heldout_all")
    outcome = read_document(RunFolder(whole).outcome, TrainOutcome)
    assert (first["step"], last["step"]) == (0, 6)
    assert first["loss_all"] == outcome.heldout_before == expected(bare_copy(whole), 4)
    assert last["loss_all"] == outcome.heldout_after
    assert last["loss_all"] != events_of(whole, "heldout")[-1]["loss"]


def bare_copy(root: Path) -> Path:
    """The same run without a checkpoint to go on from."""
    fresh = root.parent / f"{root.name}-fresh"
    if not fresh.exists():
        fresh.mkdir()
        (fresh / "run.json").write_bytes(RunFolder(root).spec.read_bytes())
        (fresh / "records").symlink_to(RunFolder(root).records)
    return fresh


@pytest.mark.parametrize("patience", [0, 1])
def test_an_interruption_changes_no_measurement(
    patience: int, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = [new_run(**SETTINGS, early_stop_patience=patience) for _ in range(2)]
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        code = main([str(roots[1])])
    assert code == EXIT_STOPPED
    for root in roots:
        assert main([str(root)]) == 0
    one, other = (
        [
            {event["step"]: event["loss"] for event in events_of(root, "heldout")},
            {event["step"]: event["loss_all"] for event in events_of(root, "heldout_all")},
        ]
        for root in roots
    )
    assert one == other


def test_early_stopping_goes_by_the_curve_and_tells_the_best_on_all_clips(
    new_run: NewRun,
) -> None:
    root = new_run(**SETTINGS, early_stop_patience=1, ema_decay=0.5)
    assert main([str(root)]) == 0
    outcome = read_document(RunFolder(root).outcome, TrainOutcome)
    curve = {event["step"]: event["loss"] for event in events_of(root, "heldout") if event["step"]}
    assert outcome.best_step == min(curve, key=lambda step: curve[step]) < outcome.step
    last = events_of(root, "heldout_all")[-1]
    assert (last["step"], last["loss_all"]) == (outcome.best_step, outcome.heldout_after)
    assert outcome.heldout_after == loss_of_export(root)


def loss_of_export(root: Path) -> float:
    """Of the best weights that the last checkpoint keeps, on all clips."""
    trainer, spec = open_trainer(root), read_document(RunFolder(root).spec, RunSpec)
    exam = trainer.journal.watch.exam
    exam.settled()
    losses = heldout_losses(
        trainer.transformer,
        trainer.learner.objective,
        samples=spec.heldout,
        records=RunFolder(root).records,
        strata=1,
    )
    return mean_loss(by_clip(losses))


@pytest.mark.parametrize(("most", "names"), [(0, "abc"), (1, "a"), (2, "ab"), (9, "abc")])
def test_the_curve_takes_clips_in_the_order_of_the_manifest(
    most: int, names: str, new_run: NewRun
) -> None:
    spec = RunFolder(new_run(heldout=1)).read_spec()
    windows = [window_of(spec, name) for name in "aabbc"]
    assert curve_clips(windows, most) == frozenset(names)


def window_of(spec: RunSpec, name: str) -> Any:
    return spec.heldout[0].model_copy(update={"clip": name})
