"""Aliases under racing, killed and late writers, and under people who move them in MLflow."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from mlflow import MlflowClient

from cogvx.errors import ConfigError, IntegrityError, UserError
from cogvx.store import LocalStore
from tasks.clients.aliases import (
    CHALLENGER,
    CHAMPION,
    DECISION_TAG,
    PREVIOUS_CHAMPION,
    Aliases,
)
from tasks.clients.journal import AliasMove, Journal, Reason, new_entry
from tests.fixtures.servers import mlflow_server
from tests.tasks.moves import make_versions

WHY = Reason("because")
ROOT = Path(__file__).parents[2]


class Place:
    """A registered model with six versions, and everything around it."""

    def __init__(self, uri: str, root: Path, name: str) -> None:
        self.uri, self.name, self.root = uri, name, root
        self.store = LocalStore(root)
        self.aliases = Aliases(uri, store=self.store)
        make_versions(uri, name, 7)
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    @property
    def journal(self) -> Journal:
        born = self.client.get_registered_model(self.name).creation_timestamp
        return Journal(self.store, self.name, str(born))

    def crown(self, version: int, over: int | None = None) -> AliasMove | None:
        return self.aliases.crown(self.name, version, expected_champion=over, reason=WHY)

    def decide(self, **after: int) -> None:
        """A decision whose maker was killed before it told MLflow."""
        entry = new_entry(
            self.name, self.journal.newest(), after, act="promoted", version=None, reason=WHY
        )
        assert self.journal.append(entry)

    def now(self) -> dict[str, int]:
        return self.aliases.aliases(self.name)

    def history(self) -> list[AliasMove]:
        return self.aliases.history(self.name)

    def move_by_hand(self, alias: str, version: int) -> None:
        self.client.set_registered_model_alias(self.name, alias, str(version))

    def start(self, seed: int, moves: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "tests.tasks.moves", self.uri, str(self.root), self.name]
        return subprocess.Popen([*command, str(seed), str(moves)], cwd=ROOT)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('aliases') / 'mlflow.db'}"


@pytest.fixture
def place(uri: str, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    Aliases(uri)  # makes the tables
    return Place(uri, tmp_path / "store", request.node.name[5:60].strip("_[]"))


def require_consistent(place: Place) -> None:
    """Each decision begins where the one before it ended, and MLflow is where the last one did."""
    history = place.history()
    assert [move.seq for move in history] == list(range(1, len(history) + 1))
    stood: dict[str, int] = {}
    for move in history:
        assert move.before == stood
        stood = move.after
    assert place.now() == stood
    assert place.aliases.is_settled(place.name)


def test_decisions_are_written_down_and_carried_out(place: Place) -> None:
    place.aliases.challenge(place.name, 2, WHY)
    place.crown(2)
    place.crown(3, over=2)
    place.aliases.roll_back(place.name, expected_champion=3, reason=Reason("it flickers"))
    assert place.now() == {CHALLENGER: 2, CHAMPION: 2, PREVIOUS_CHAMPION: 3}
    acts = [(move.act, move.version) for move in place.history()]
    assert acts == [("registered", 2), ("promoted", 2), ("promoted", 3), ("rolled back", 3)]
    assert place.history()[-1].why == "it flickers"
    assert "@" in place.history()[-1].who
    require_consistent(place)
    assert not list(place.store.entries(f"registry/{place.name}/{place.journal.born}/hands/"))


def test_a_slow_older_registration_never_takes_the_challenger_back(place: Place) -> None:
    place.aliases.challenge(place.name, 5, WHY)
    assert place.aliases.challenge(place.name, 4, WHY) is None
    assert place.now() == {CHALLENGER: 5}


def test_going_back_needs_somewhere_to_go(place: Place) -> None:
    place.crown(1)
    with pytest.raises(UserError, match="no previous champion"):
        place.aliases.roll_back(place.name, expected_champion=1, reason=WHY)
    place.crown(2, over=1)
    with pytest.raises(UserError, match="the champion is now 2"):
        place.aliases.roll_back(place.name, expected_champion=1, reason=WHY)
    with pytest.raises(ConfigError, match="no registered model nobody"):
        place.aliases.challenge("nobody", 1, WHY)


def test_going_back_by_hand_can_be_taken_back_by_one_command(place: Place) -> None:
    place.crown(1)
    place.crown(2, over=1)
    place.move_by_hand(CHAMPION, 1)
    place.aliases.roll_back(place.name, expected_champion=1, reason=WHY)
    assert place.history()[-2].after == {CHAMPION: 1, PREVIOUS_CHAMPION: 2}
    assert place.now() == {CHAMPION: 2, PREVIOUS_CHAMPION: 1}
    require_consistent(place)


def test_a_person_who_moves_both_gets_both(place: Place) -> None:
    place.crown(1)
    place.crown(2, over=1)
    place.move_by_hand(CHAMPION, 4)
    place.move_by_hand(PREVIOUS_CHAMPION, 3)
    place.aliases.challenge(place.name, 6, WHY)
    assert place.now() == {CHALLENGER: 6, CHAMPION: 4, PREVIOUS_CHAMPION: 3}
    require_consistent(place)


def test_going_back_to_the_champion_itself_is_refused(place: Place) -> None:
    place.crown(1)
    place.crown(2, over=1)
    place.move_by_hand(PREVIOUS_CHAMPION, 2)
    with pytest.raises(UserError, match="previous champion is version 2 itself"):
        place.aliases.roll_back(place.name, expected_champion=2, reason=WHY)
    assert place.now() == {CHAMPION: 2, PREVIOUS_CHAMPION: 2}


def test_a_deleted_champion_is_no_dead_end(place: Place) -> None:
    place.crown(1)
    place.crown(2, over=1)
    place.client.delete_model_version(place.name, "2")  # and with it its alias
    place.crown(3)
    assert place.now() == {CHAMPION: 3, PREVIOUS_CHAMPION: 1}
    place.aliases.roll_back(place.name, expected_champion=3, reason=WHY)
    require_consistent(place)


def test_what_a_person_moved_in_mlflow_is_adopted(place: Place) -> None:
    place.move_by_hand(CHAMPION, 4)  # before there was any journal
    place.crown(1, over=4)
    place.move_by_hand(CHAMPION, 4)  # also back to where it was
    with pytest.raises(UserError, match="the champion is now 4"):
        place.crown(2, over=1)
    assert [move.act for move in place.history()] == ["moved outside", "promoted", "moved outside"]
    assert place.now()[CHAMPION] == 4
    place.client.delete_registered_model_alias(place.name, CHAMPION)
    place.crown(2)
    assert place.history()[-2].after == {PREVIOUS_CHAMPION: 4}
    require_consistent(place)


def test_aliases_of_other_people_are_left_alone(place: Place) -> None:
    place.move_by_hand("staging", 3)
    place.crown(1)
    assert place.client.get_registered_model(place.name).aliases["staging"] == 3
    assert len(place.history()) == 1


def test_an_unfinished_decision_is_finished_first(place: Place) -> None:
    place.crown(1)
    place.decide(champion=2, previous_champion=1)
    assert place.now() == {CHAMPION: 1}
    assert not place.aliases.is_settled(place.name)
    with pytest.raises(UserError, match="the champion is now 2"):
        place.crown(3, over=1)
    assert place.now() == {CHAMPION: 2, PREVIOUS_CHAMPION: 1}
    require_consistent(place)


def test_a_person_who_moves_what_is_unfinished_is_heard(place: Place) -> None:
    place.crown(1)
    place.decide(champion=2, previous_champion=1)
    place.move_by_hand(CHAMPION, 5)
    place.aliases.challenge(place.name, 6, WHY)
    assert place.now() == {CHALLENGER: 6, CHAMPION: 5, PREVIOUS_CHAMPION: 1}
    require_consistent(place)


def test_a_late_writer_is_no_person(place: Place) -> None:
    place.crown(1)
    hand = place.journal.raise_hand(1)  # somebody carries decision 1 out, slowly
    place.crown(2, over=1)
    place.move_by_hand(CHAMPION, 1)  # ... and only now, and is killed
    place.aliases.challenge(place.name, 6, WHY)
    assert place.now() == {CHALLENGER: 6, CHAMPION: 2, PREVIOUS_CHAMPION: 1}
    require_consistent(place)
    os.utime(place.root / hand, (time.time() - 9000, time.time() - 9000))
    place.move_by_hand(CHAMPION, 1)  # long after: a person
    place.crown(3, over=1)
    assert place.history()[-2].act == "moved outside"
    assert place.store.info(hand) is None


def test_a_version_that_was_deleted_holds_nothing_up(place: Place) -> None:
    place.crown(1)
    place.journal.raise_hand(1)
    place.decide(champion=6, previous_champion=1)
    place.client.delete_model_version(place.name, "6")
    place.aliases.challenge(place.name, 2, WHY)
    assert place.now() == {CHALLENGER: 2, CHAMPION: 1, PREVIOUS_CHAMPION: 1}
    require_consistent(place)
    with pytest.raises(UserError, match="previous champion is version 1 itself"):
        place.aliases.roll_back(place.name, expected_champion=1, reason=WHY)


def test_a_version_that_is_not_there_is_refused_before_anything_is_decided(place: Place) -> None:
    place.crown(1)
    place.client.delete_model_version(place.name, "6")
    for missing in (6, 99):
        with pytest.raises(ConfigError, match=f"{place.name} has no version {missing}"):
            place.crown(missing, over=1)
        with pytest.raises(ConfigError, match=f"{place.name} has no version {missing}"):
            place.aliases.challenge(place.name, missing, WHY)
    assert place.now() == {CHAMPION: 1}
    assert [move.act for move in place.history()] == ["promoted"]


def test_a_model_made_again_has_a_new_journal(place: Place) -> None:
    place.crown(5)
    place.client.delete_registered_model(place.name)
    time.sleep(0.01)
    make_versions(place.uri, place.name, 2)
    assert place.history() == []
    place.crown(1)
    assert place.now() == {CHAMPION: 1}


def test_another_store_goes_on_from_what_mlflow_says(place: Place, tmp_path: Path) -> None:
    place.crown(1)
    place.crown(2, over=1)
    other = Aliases(place.uri, store=LocalStore(tmp_path / "other"))
    other.crown(place.name, 3, expected_champion=2, reason=WHY)
    assert [move.seq for move in other.history(place.name)] == [3, 4]
    place.crown(4, over=3)
    assert place.now()[CHAMPION] == 4
    assert place.history()[-2].act == "moved outside"


def test_a_damaged_decision_is_named(place: Place) -> None:
    place.crown(1)
    key = f"registry/{place.name}/{place.journal.born}/00000001.json"
    place.store.write(key, b"{}")
    with pytest.raises(IntegrityError, match=key):
        place.crown(2, over=1)


def test_two_who_tell_mlflow_the_same_first_decision_are_both_done(place: Place) -> None:
    """MLflow looks, and then inserts: another process was in between."""
    faster: list[Any] = []

    def be_faster(*execution: Any) -> None:
        _, _, statement, parameters, *_ = execution
        if statement.startswith("INSERT INTO registered_model_tags") and not faster:
            faster.append(parameters)
            database = place.uri.removeprefix("sqlite:///")
            with contextlib.closing(sqlite3.connect(database)) as other, other:
                other.execute(statement, parameters)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", be_faster)
    try:
        place.crown(1)
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", be_faster)
    assert len(faster) == 1
    require_consistent(place)


def run_race(place: Place, processes: int, moves: int, *, kill: int = 0) -> None:
    """Let processes race, and kill some of them in the middle; then look."""
    started = [place.start(seed, moves) for seed in range(processes)]
    try:
        for victim in started[:kill]:
            while len(place.history()) < moves and victim.poll() is None:
                time.sleep(0.05)
            victim.send_signal(signal.SIGKILL)
        for process in started[kill:]:
            assert process.wait(timeout=200) == 0
    finally:
        for process in started:
            process.kill()
            process.wait()
    place.aliases.challenge(place.name, 7, Reason("mended"))  # newer than any: it has to look
    require_consistent(place)
    made = [move.why for move in place.history() if move.act != "moved outside"]
    assert len(set(made)) == len(made)
    for seed in range(kill, processes):
        assert {f"{seed}:{number}" for number in range(moves)} <= set(made)
    assert all(move.act != "moved outside" for move in place.history())


def test_racing_and_killed_processes_lose_no_decision(place: Place) -> None:
    run_race(place, processes=4, moves=6, kill=1)


@pytest.mark.slow
def test_many_racing_and_killed_processes_lose_no_decision(place: Place) -> None:
    run_race(place, processes=8, moves=12, kill=3)


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    folder.mkdir()
    with mlflow_server(folder) as url:
        yield url


def test_a_server_is_no_different(tmp_path: Path) -> None:
    with _server(tmp_path / "server") as url:
        run_race(Place(url, tmp_path / "store", "raced"), processes=3, moves=5, kill=1)


def test_the_tag_says_which_decision_mlflow_has(place: Place) -> None:
    place.crown(1)
    assert place.client.get_registered_model(place.name).tags[DECISION_TAG] == "1"
