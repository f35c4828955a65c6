"""Events: followed while they grow, readable after any kill, and undone by a resume."""

from pathlib import Path

import pytest

from cogvx.runs.events import EventTail, EventWriter, history


def steps(events: list[dict[str, object]]) -> list[object]:
    return [event.get("step", event["kind"]) for event in events]


def test_a_tail_gives_each_event_once_and_waits_for_a_line_to_be_finished(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    assert list(tail.read()) == []
    writer = EventWriter(path)
    writer.write("metrics", step=1, values={"loss": 0.5})
    (event,) = tail.read()
    assert (event["kind"], event["step"], event["values"]) == ("metrics", 1, {"loss": 0.5})
    with path.open("a") as file:
        file.write('{"kind": "metrics", "st')
    assert list(tail.read()) == []
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert steps(list(tail.read())) == [2]


def test_a_line_torn_by_a_kill_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventWriter(path).write("metrics", step=1)
    with path.open("a") as file:
        file.write('{"kind": "metr')
    EventWriter(path).write("metrics", step=2)
    assert steps(list(EventTail(path).read())) == [1, 2]


def test_a_resume_undoes_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)
    writer.write("phase", name="training")
    for step in (2, 4, 6):
        writer.write("metrics", step=step)
    writer.write("resumed", step=4)
    writer.write("metrics", step=6)
    assert steps(history(path)) == ["phase", 2, 4, 4, 6]


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        EventWriter(tmp_path / "events.jsonl").write("metrics", value=float("nan"))
