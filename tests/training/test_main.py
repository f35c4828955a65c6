"""The trainer's entry point in this process: resume, stop, refusal, and doing nothing twice."""

import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import load_file, save

from cogvx.adapters.card import AdapterCard, read_card
from cogvx.adapters.container import read_header, with_metadata
from cogvx.adapters.export import export_adapter
from cogvx.errors import ConfigError, IntegrityError, TransientError
from cogvx.files import read_document, write_document
from cogvx.runs.events import EventTail
from cogvx.runs.folder import RunFolder, RunSpec, TrainOutcome
from cogvx.runs.lock import hold
from cogvx.training.__main__ import main
from cogvx.training.checkpoint import CheckpointState, Pointer, Progress
from cogvx.training.journal import Journal
from tests.fixtures.disks import close, fill, small_disk
from tests.fixtures.training_runs import adapter_bits
from tests.training.stops import stop_within

NewRun = Callable[..., Path]


@pytest.fixture(scope="module")
def uninterrupted(new_run: NewRun) -> Path:
    root = new_run()
    assert main([str(root)]) == 0
    return root


def outcome_of(root: Path) -> TrainOutcome:
    return read_document(RunFolder(root).outcome, TrainOutcome)


def kinds(root: Path) -> list[str]:
    return [event["kind"] for event in EventTail(RunFolder(root).events).read()]


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a real SIGTERM, twice, while it does its update number `step`."""

    def terminate_twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    at_step(step, monkeypatch, terminate_twice)


def at_step(step: int, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    record = Journal.record

    def and_act(self: Journal, number: int, *rest: Any) -> None:
        if number == step:
            act()
        record(self, number, *rest)

    monkeypatch.setattr(Journal, "record", and_act)


def later(monkeypatch: pytest.MonkeyPatch, *, hours: float) -> None:
    """Let the clock that stops look at jump ahead."""
    clock = time.monotonic
    ahead = SimpleNamespace(monotonic=lambda: clock() + 3600 * hours)
    monkeypatch.setattr("cogvx.training.stop.time", ahead)


@pytest.fixture
def unfinished(uninterrupted: Path, tmp_path: Path) -> Path:
    """A copy of that run that does not know that it has ended."""
    root = shutil.copytree(uninterrupted, tmp_path / "run")
    RunFolder(root).outcome.unlink()
    return root


def test_a_run_ends_with_an_adapter_a_card_and_an_outcome(uninterrupted: Path) -> None:
    outcome, folder = outcome_of(uninterrupted), RunFolder(uninterrupted)
    assert (outcome.status, outcome.step, outcome.steps) == ("completed", 6, 6)
    assert folder.completed() == outcome
    assert outcome.heldout_before is not None
    assert outcome.heldout_after is not None
    assert outcome.train_loss is not None
    card = read_card(folder.adapter_file)
    spec = read_document(folder.spec, RunSpec)
    assert card is not None
    assert (card.run, card.rank, card.alpha, card.steps) == (spec.run, 4, 2, 6)
    assert card.recipe == spec.recipe.training_digest()
    assert card.warnings == spec.warnings == ("the clips are few",)
    phases = [
        event["name"] for event in EventTail(folder.events).read() if event["kind"] == "phase"
    ]
    assert phases == ["loading", "training", "exporting", "verifying", "completed"]
    (verified,) = [
        event for event in EventTail(folder.events).read() if event["kind"] == "verified"
    ]
    assert verified["values"]["strength_ratio"] == pytest.approx(1, abs=1e-6)
    assert "acts at 1.000000 times the trained strength on 24 linear layers" in verified["text"]


def test_the_same_run_again_gives_the_same_bits(uninterrupted: Path, new_run: NewRun) -> None:
    root = new_run()
    assert main([str(root)]) == 0
    assert adapter_bits(root) == adapter_bits(uninterrupted)


def test_a_completed_run_is_left_alone(uninterrupted: Path, tmp_path: Path) -> None:
    root = shutil.copytree(uninterrupted, tmp_path / "run")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert main([str(root)]) == 0
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_a_completed_run_whose_adapter_was_altered_makes_it_again(
    uninterrupted: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(uninterrupted, tmp_path / "run")
    RunFolder(root).adapter_file.write_bytes(b"something else")
    assert main([str(root)]) == 0
    assert adapter_bits(root) == adapter_bits(uninterrupted)
    assert outcome_of(root).resumed_from == 6


@pytest.mark.parametrize("step", [1, 3, 6])
def test_sigterm_saves_and_the_same_command_ends_with_the_same_bits(
    step: int, uninterrupted: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = new_run()
    with monkeypatch.context() as patch:
        stop_after(step, patch)
        assert main([str(root)]) == 143
    stopped = outcome_of(root)
    assert (stopped.status, stopped.stopped_for, stopped.step) == ("stopped", "signal", step)
    assert stopped.error == (
        f"training was asked to stop; step {step} is saved. Run it again to go on from there"
    )
    assert not RunFolder(root).adapter_file.exists()

    assert main([str(root)]) == 0
    finished, whole = outcome_of(root), outcome_of(uninterrupted)
    assert finished.resumed_from == step
    assert adapter_bits(root) == adapter_bits(uninterrupted)
    same = ("train_loss", "heldout_before", "heldout_after", "adapter_sha256")
    assert [getattr(finished, name) for name in same] == [getattr(whole, name) for name in same]
    assert kinds(root).count("resumed") == 1
    assert "warning" not in kinds(root)


def test_a_stop_within_an_update_drops_it_and_the_run_ends_with_the_same_bits(
    uninterrupted: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = new_run()
    with monkeypatch.context() as patch:
        stop_within(3, 0, patch)
        assert main([str(root)]) == 143
    stopped = outcome_of(root)
    assert (stopped.status, stopped.stopped_for, stopped.step) == ("stopped", "signal", 3)
    assert read_document(RunFolder(root).latest, Pointer).step == 3
    assert main([str(root)]) == 0
    assert outcome_of(root).resumed_from == 3
    assert adapter_bits(root) == adapter_bits(uninterrupted)
    for part in ("lora", "optimiser"):
        ours, theirs = (
            (folder / "step-00000006" / f"{part}.safetensors").read_bytes()
            for folder in (RunFolder(root).checkpoints, RunFolder(uninterrupted).checkpoints)
        )
        assert ours == theirs


def test_when_the_hours_of_a_start_are_over_it_saves_and_says_so_and_the_next_goes_on(
    uninterrupted: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = new_run(max_hours=8)
    stops = []
    for step in (2, 5):
        with monkeypatch.context() as patch:
            at_step(step, patch, lambda: later(patch, hours=8.01))
            assert main([str(root)]) == 143
        stops.append(outcome_of(root))
    assert [(stop.status, stop.stopped_for, stop.step) for stop in stops] == [
        ("stopped", "max_hours", 2),
        ("stopped", "max_hours", 5),
    ]
    assert stops[1].error == (
        "train.max_hours = 8 is over; step 5 is saved. Run it again to go on from there"
    )
    assert main([str(root)]) == 0
    assert adapter_bits(root) == adapter_bits(uninterrupted)


def test_hours_that_end_before_the_first_update_are_refused(new_run: NewRun) -> None:
    root = new_run(max_hours=1e-6)
    assert main([str(root)]) == ConfigError.exit_code
    assert outcome_of(root).error == (
        "train.max_hours = 1e-06 was over before anything new was done, at step 0, and would be "
        "each time; use more"
    )


def test_measuring_held_out_clips_changes_no_bit(uninterrupted: Path, new_run: NewRun) -> None:
    often, never = new_run(), new_run()
    for root, changes in ((often, {"heldout_every": 1}), (never, {"heldout_every": 99})):
        folder = RunFolder(root)
        spec = read_document(folder.spec, RunSpec)
        recipe = spec.recipe.model_copy(
            update={"train": spec.recipe.train.model_copy(update=changes)}
        )
        heldout = spec.heldout if root is often else ()
        write_document(folder.spec, spec.model_copy(update={"recipe": recipe, "heldout": heldout}))
        assert main([str(root)]) == 0
    lora = [
        (RunFolder(root).checkpoints / "step-00000006" / "lora.safetensors").read_bytes()
        for root in (often, never, uninterrupted)
    ]
    assert lora[0] == lora[1] == lora[2]
    assert kinds(often).count("heldout") == 7
    assert kinds(never).count("heldout") == 0


def test_a_damaged_checkpoint_ends_the_run_with_a_sentence(
    unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(unfinished)
    (folder.checkpoints / "step-00000006" / "lora.safetensors").write_bytes(b"torn")
    assert main([str(unfinished)]) == 3
    outcome = outcome_of(unfinished)
    assert (outcome.status, outcome.error_kind) == ("failed", "IntegrityError")
    assert outcome.error is not None
    assert "step-00000006 is damaged: lora.safetensors is not what was written" in outcome.error
    assert "to go on from step-00000004" in outcome.error
    assert f"IntegrityError: {outcome.error}" in capsys.readouterr().err


def test_a_run_whose_checkpoints_were_removed_does_not_quietly_start_at_step_0(
    uninterrupted: Path, unfinished: Path
) -> None:
    folder = RunFolder(unfinished)
    shutil.rmtree(folder.checkpoints)
    assert main([str(unfinished)]) == 3
    outcome = outcome_of(unfinished)
    assert (outcome.status, outcome.error_kind, outcome.step) == ("failed", "IntegrityError", 0)
    assert "step-00000006 is gone" in str(outcome.error)
    assert f"remove {folder.events} to start again from step 0" in str(outcome.error)
    folder.events.unlink()
    assert main([str(unfinished)]) == 0
    assert adapter_bits(unfinished) == adapter_bits(uninterrupted)


def test_an_adapter_file_that_acts_otherwise_than_the_trained_one_ends_the_run(
    uninterrupted: Path, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unbaked(
        transformer: CogVideoXTransformer3DModel, folder: Path, *, card: AdapterCard
    ) -> Path:
        path = export_adapter(transformer, folder, card=card)
        tensors = {
            name: tensor / card.scale if "lora_B" in name else tensor
            for name, tensor in load_file(path).items()
        }
        path.write_bytes(with_metadata(save(tensors), read_header(path).metadata))
        return path

    folder = RunFolder(unfinished)
    before = len(kinds(unfinished))
    with monkeypatch.context() as patch:
        patch.setattr("cogvx.training.attempt.export_adapter", unbaked)
        assert main([str(unfinished)]) == IntegrityError.exit_code
    outcome = outcome_of(unfinished)
    assert (outcome.status, outcome.error_kind) == ("failed", "IntegrityError")
    assert "it acts at 2.0000 times the trained strength" in str(outcome.error)
    assert outcome.adapter_sha256 is None
    assert folder.completed() is None
    said = list(EventTail(folder.events).read())[before:]
    assert "completed" not in [event.get("name") for event in said]

    assert main([str(unfinished)]) == 0
    assert adapter_bits(unfinished) == adapter_bits(uninterrupted)


@pytest.mark.parametrize("data", ["", "{", '{"status": "lost"}'])
def test_documents_that_cannot_be_read_do_not_stand_in_the_way(
    data: str, uninterrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = shutil.copytree(uninterrupted, tmp_path / "run")
    folder = RunFolder(root)
    folder.outcome.write_text(data)
    folder.latest.write_text(data)
    assert main([str(root)]) == 0
    assert outcome_of(root).resumed_from == 6
    assert adapter_bits(root) == adapter_bits(uninterrupted)
    assert f"{folder.outcome} cannot be read, so it counts as none" in caplog.text
    (warning,) = (e for e in EventTail(folder.events).read() if e["kind"] == "warning")
    assert f"{folder.latest} could not be read and was written again" in warning["text"]


def test_an_outcome_that_another_process_left_torn_explains_nothing(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = new_run()

    def tear_and_fail(*_args: object) -> None:
        RunFolder(root).outcome.write_text("{")
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(Journal, "begin", tear_and_fail)
    with pytest.raises(RuntimeError, match="on fire"):
        main([str(root)])
    assert outcome_of(root).error == "RuntimeError: the disk is on fire"


def test_a_second_trainer_touches_nothing(
    unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(unfinished)
    with hold(folder.trainer_lock):
        before = {path: path.read_bytes() for path in unfinished.rglob("*") if path.is_file()}
        assert main([str(unfinished)]) == 75
        assert {
            path: path.read_bytes() for path in unfinished.rglob("*") if path.is_file()
        } == before
    said = capsys.readouterr().err
    assert f"Held: another process (pid {os.getpid()} on " in said
    assert main([str(unfinished)]) == 0


def test_a_folder_that_says_something_else_than_it_began_with_is_refused_in_words(
    unfinished: Path, new_run: NewRun
) -> None:
    folder = RunFolder(unfinished)
    was = read_document(folder.spec, RunSpec)
    now = RunFolder(new_run(learning_rate=2e-3, clips=5)).read_spec()
    write_document(folder.spec, now.model_copy(update={"run": "c" * 64}))
    assert main([str(unfinished)]) == 2
    outcome = outcome_of(unfinished)
    assert outcome.error_kind == "ConfigError"
    assert outcome.error == (
        f"{unfinished} was begun as run {was.run[:12]} and now says cccccccccccc: "
        "train.learning_rate was 0.001 and is 0.002; the clips were 4 windows and 2 held out and "
        "are 5 windows and 2 held out: 1 added, 1 changed. Put that back to go on, or use a new "
        f'run folder to begin anew; with train.fork_of = "{was.run}" that begins with the weights '
        "of this one"
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"learning_rate": 1e-5, "seed": 8},
            "train.learning_rate was 0.001 and is 1e-05; train.seed was 7 and is 8",
        ),
        ({"steps": 4}, "train.steps was 6 and is 4"),
        ({"steps": 8}, "train.steps was 6 and is 8"),
    ],
)
def test_a_recipe_changed_by_hand_is_refused_though_the_run_keeps_its_name(
    unfinished: Path, changed: dict[str, Any], told: str
) -> None:
    folder = RunFolder(unfinished)
    document = json.loads(folder.spec.read_text())
    document["recipe"]["train"] |= changed
    folder.spec.write_text(json.dumps(document, indent=2))
    for _ in range(2):
        assert main([str(unfinished)]) == 2
        outcome = outcome_of(unfinished)
        assert (outcome.status, outcome.error_kind) == ("failed", "ConfigError")
        assert outcome.error == (
            f"{folder.spec} says something else than when run {document['run'][:12]} was begun: "
            f"{told}. Put that back to go on, or use a new run folder to begin anew; with "
            f'train.fork_of = "{document["run"]}" that begins with the weights of this one'
        )
    assert read_document(folder.latest, Pointer).step == 6


@pytest.mark.parametrize(
    ("kept", "manifest", "told"),
    [
        (2, "another", "are 2 windows and 2 held out: 2 removed"),
        (2, "manifest", "are 2 windows and 2 held out: 2 removed"),
        (4, "another", "are 4 windows and 2 held out"),
    ],
)
def test_other_clips_are_refused_though_the_run_keeps_its_name(
    unfinished: Path, kept: int, manifest: str, told: str
) -> None:
    folder = RunFolder(unfinished)
    document = json.loads(folder.spec.read_text())
    document |= {"manifest": manifest, "train": document["train"][:kept]}
    folder.spec.write_text(json.dumps(document))
    assert main([str(unfinished)]) == 2
    error = str(outcome_of(unfinished).error)
    assert f"was begun: the clips were 4 windows and 2 held out and {told}. Put that" in error


def test_a_caption_changed_by_hand_is_refused_though_all_else_is_the_same(unfinished: Path) -> None:
    folder = RunFolder(unfinished)
    document = json.loads(folder.spec.read_text())
    first, second, *_ = document["train"]
    first["prompt"], second["prompt"] = second["prompt"], first["prompt"]
    folder.spec.write_text(json.dumps(document))
    assert main([str(unfinished)]) == 2
    assert "are 4 windows and 2 held out: 2 changed. Put" in str(outcome_of(unfinished).error)
    folder.begun.unlink()  # as on another machine
    assert main([str(unfinished)]) == 2
    told = "the clips were others, or something else was made of them. Put"
    assert told in str(outcome_of(unfinished).error)


def test_how_the_work_is_laid_out_may_be_changed_by_hand(
    uninterrupted: Path, unfinished: Path
) -> None:
    folder = RunFolder(unfinished)
    document = json.loads(folder.spec.read_text())
    document["recipe"]["train"] |= {"micro_batch": 2, "checkpoint_every": 5, "max_hours": 1}
    document["recipe"]["compute"] |= {"checkpointing": "full"}
    folder.spec.write_text(json.dumps(document))
    assert main([str(unfinished)]) == 0
    assert adapter_bits(unfinished) == adapter_bits(uninterrupted)


def test_a_resume_on_other_libraries_says_that_bits_may_differ(unfinished: Path) -> None:
    folder = RunFolder(unfinished)
    path = folder.checkpoints / "step-00000006" / "state.json"
    state = read_document(path, CheckpointState)
    older = {**state.footing, "peft": "0.1", "train.processes": "2"}
    write_document(path, state.model_copy(update={"footing": older}))
    assert main([str(unfinished)]) == 0
    (warning,) = (e for e in EventTail(folder.events).read() if e["kind"] == "warning")
    assert "the last bits may differ: peft was 0.1 and is" in warning["text"]
    assert "train.processes was 2 and is 1" in warning["text"]


def test_an_error_that_nobody_foresaw_is_written_down_and_raised(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise RuntimeError("the disk is on fire")

    root = new_run()
    monkeypatch.setattr(Journal, "begin", fail)
    with pytest.raises(RuntimeError, match="on fire"):
        main([str(root)])
    outcome = outcome_of(root)
    assert (outcome.error_kind, outcome.error) == (
        "CogvxError",
        "RuntimeError: the disk is on fire",
    )


@pytest.mark.parametrize("room", [0, 1 << 14])
def test_a_full_disk_ends_the_run_with_a_sentence_and_with_room_it_goes_on(
    room: int,
    uninterrupted: Path,
    new_run: NewRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with small_disk(tmp_path / "disk", mib=64) as disk:
        root = shutil.copytree(new_run(), disk / "run")
        with monkeypatch.context() as patch:
            at_step(3, patch, lambda: fill(disk, but=room))
            assert main([str(root)]) == TransientError.exit_code
        said = capsys.readouterr().err
        assert "TransientError: " in said
        assert ": No space left on device. Make room there (a checkpoint takes" in said
        assert "it goes on from its newest checkpoint, step-00000002\n" in said
        assert "Traceback" not in said
        if room:
            outcome = outcome_of(root)
            assert (outcome.status, outcome.error_kind) == ("failed", "TransientError")
            assert f"TransientError: {outcome.error}\n" in said
        else:
            assert not RunFolder(root).outcome.exists()
        (disk / "filler").unlink()
        assert main([str(root)]) == 0
        assert adapter_bits(root) == adapter_bits(uninterrupted)


def test_a_file_larger_than_allowed_ends_the_run_with_a_sentence(
    uninterrupted: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = new_run()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        limit = (1 << 14, before[1])
        at_step(3, patch, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
        try:
            assert main([str(root)]) == TransientError.exit_code
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    outcome = outcome_of(root)
    assert (outcome.status, outcome.error_kind, outcome.step) == ("failed", "TransientError", 4)
    assert ": File too large. Make room there" in str(outcome.error)
    assert main([str(root)]) == 0
    assert adapter_bits(root) == adapter_bits(uninterrupted)


def test_a_folder_that_may_not_be_written_is_refused_with_a_sentence(
    new_run: NewRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", mib=64) as disk:
        root = shutil.copytree(new_run(), disk / "run")
        close(disk)
        assert main([str(root)]) == ConfigError.exit_code
        told = f"ConfigError: {root / 'trainer.lock'}: Read-only file system. Let this user read"
        assert told in capsys.readouterr().err


def test_the_reason_that_another_process_gave_is_kept(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = new_run()
    reason = TrainOutcome(
        status="failed", step=0, steps=6, error_kind="IntegrityError", error="record x is damaged"
    )

    def fail_as_the_other_did(*_args: object) -> None:
        write_document(RunFolder(root).outcome, reason)
        raise RuntimeError("connection closed by peer")

    monkeypatch.setattr(Journal, "begin", fail_as_the_other_did)
    with pytest.raises(RuntimeError, match="closed by peer"):
        main([str(root)])
    assert outcome_of(root) == reason


def test_the_scaler_of_float16_survives_a_checkpoint() -> None:
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    state = Progress(step=1, scaler=scaler.state_dict()).model_dump_json()
    back = Progress.model_validate_json(state).scaler
    assert back == scaler.state_dict()
    assert [type(value) for value in back.values()] == [
        type(value) for value in scaler.state_dict().values()
    ]


def test_a_folder_that_is_no_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "is no run folder: it has no run.json" in capsys.readouterr().err
    assert main([]) == 2
    (tmp_path / "run.json").write_text(json.dumps({"run": 1}))
    assert main([str(tmp_path)]) == 3
