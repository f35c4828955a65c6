"""Batches drawn ahead: the same bits, errors where they belong, no thread left behind."""

import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cogvx.errors import IntegrityError
from cogvx.objective.batch import Batch, Batches
from cogvx.runs.folder import RunFolder
from cogvx.training.prefetch import Feed
from tests.fixtures.training_runs import open_trainer

NewRun = Callable[..., Path]
Drawing = Callable[[], list[threading.Thread]]
CPU = torch.device("cpu")


def batches_of(root: Path) -> Batches:
    return open_trainer(root).journal.watch.batches


def feed_of(batches: Batches, ahead: int) -> Feed:
    return Feed(batches, rank=0, device=CPU, ahead=ahead)


def same(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)]
    return all(a is b is None or torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def drawing() -> Drawing:
    """The threads that draw, but those of trainers that earlier tests left to the collector."""
    before = set(threading.enumerate())

    def ours() -> list[threading.Thread]:
        found = set(threading.enumerate()) - before
        return [thread for thread in found if thread.name.startswith("batches")]

    return ours


@pytest.mark.parametrize("ahead", [0, 1, 2, 64])
def test_any_number_drawn_ahead_gives_the_same_bits(
    new_run: NewRun, ahead: int, drawing: Drawing
) -> None:
    batches = batches_of(new_run(steps=3))
    with feed_of(batches, ahead) as feed:
        for step in range(3):
            for micro in range(2):
                plain = batches.draw(step, micro=micro, rank=0, device=CPU)
                assert same(feed.take(step, micro), plain)
    assert not drawing()


def test_asked_out_of_order_it_goes_on_from_there(new_run: NewRun) -> None:
    batches = batches_of(new_run())
    with feed_of(batches, 2) as feed:
        for step, micro in ((4, 1), (5, 0), (0, 0), (0, 0), (3, 1), (5, 1)):
            assert same(feed.take(step, micro), batches.draw(step, micro=micro, rank=0, device=CPU))


class Watched(Batches):
    """Batches that remember what was drawn."""

    def draw(self, step: int, *, micro: int, rank: int, device: torch.device) -> Batch:
        drawn.append((step, micro))
        return super().draw(step, micro=micro, rank=rank, device=device)


drawn: list[tuple[int, int]] = []


def test_no_more_are_drawn_ahead_than_was_said_nor_past_the_end(new_run: NewRun) -> None:
    drawn.clear()
    plain = batches_of(new_run(steps=3))
    batches = Watched(**{field.name: getattr(plain, field.name) for field in fields(plain)})
    order = [(step, micro) for step in range(3) for micro in range(2)]
    with feed_of(batches, 2) as feed:
        for number, place in enumerate(order):
            feed.take(*place)
            assert len(drawn) <= number + 3
    assert drawn == order


def test_a_damaged_record_raises_at_the_step_that_needs_it(
    new_run: NewRun, drawing: Drawing
) -> None:
    root = new_run(steps=6, caption_dropout=0)
    batches = batches_of(root)
    needed = [batches.sampler.clip(step, position) for step in range(6) for position in range(2)]
    late = next(at for at, clip in enumerate(needed) if at > 2 and clip not in needed[:at])
    record = RunFolder(root).record(batches.samples[needed[late]].latents)
    record.write_bytes(record.read_bytes()[:-1])
    with feed_of(batches, 64) as feed:
        for at in range(late):
            feed.take(*divmod(at, 2))
        with pytest.raises(IntegrityError, match=record.stem):
            feed.take(*divmod(late, 2))
    assert not drawing()


def test_closing_does_not_wait_for_what_was_to_be_drawn_ahead(
    new_run: NewRun, drawing: Drawing
) -> None:
    begun, go = threading.Event(), threading.Event()

    class Slow(Batches):
        def draw(self, step: int, *, micro: int, rank: int, device: torch.device) -> Batch:
            if step:
                drawn.append((step, micro))
                begun.set()
                assert go.wait(20)
            return super().draw(step, micro=micro, rank=rank, device=device)

    drawn.clear()
    plain = batches_of(new_run())
    batches = Slow(**{field.name: getattr(plain, field.name) for field in fields(plain)})
    feed = feed_of(batches, 8)
    feed.take(0, 0)
    assert begun.wait(20)
    closing = threading.Thread(target=feed.close)
    closing.start()
    go.set()
    closing.join(20)
    assert not closing.is_alive()
    assert len(drawn) == 1  # the one that it was in
    assert not drawing()


def test_on_a_cpu_nothing_is_copied(new_run: NewRun) -> None:
    batches = batches_of(new_run())
    made: list[Tensor] = []

    class Seen(Batches):
        def draw(self, step: int, *, micro: int, rank: int, device: torch.device) -> Batch:
            batch = super().draw(step, micro=micro, rank=rank, device=device)
            made.append(batch.noise_bfchw)
            return batch

    seen = Seen(**{field.name: getattr(batches, field.name) for field in fields(batches)})
    with feed_of(seen, 1) as feed:
        assert feed.take(0, 0).noise_bfchw.data_ptr() == made[0].data_ptr()
