"""A change of a dataset's files is claimed by one watcher alone, and told apart from no change."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cogvx.data.arrivals import Announcements, Arrival, Change, Listing
from cogvx.data.ledger import Ledger, Probed
from cogvx.data.sources import find_clips, list_files
from cogvx.errors import IntegrityError
from cogvx.store import LocalStore, MemoryStore

CLIPS = "file:///clips"


def listing(*names: str, size: int = 1) -> Listing:
    return Listing(files=dict.fromkeys(names, (size, "stamp")))


def claimed(announcements: Announcements, now: Listing) -> Arrival:
    arrival = announcements.claim(announcements.newest(), now, settled=True)
    assert arrival is not None
    return arrival


def keys(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    found = list_files(LocalStore(folder))
    return [info.key for info in (*found.videos, *found.texts)]


def test_only_clips_and_what_may_caption_them_are_listed(tmp_path: Path) -> None:
    """Uploads that are under way are hidden or have another ending, whoever makes them."""
    shown = ["a.mp4", "deep/b.MOV", "a.txt", "deep/c.txt"]
    hidden = [".d.mp4.x7Yz", ".sync/e.mp4", "f.mp4.part", "g.mp4.crdownload", "notes.pdf"]
    assert keys(tmp_path, *shown, *hidden, "README.txt", "list.csv") == shown


@pytest.mark.parametrize("document", ["metadata.jsonl", "metadata.csv"])
def test_a_document_of_captions_counts_at_the_top_alone(tmp_path: Path, document: str) -> None:
    assert keys(tmp_path, "a.mp4", document, f"old/{document}") == ["a.mp4", document]


def test_a_readme_that_captions_a_clip_counts(tmp_path: Path) -> None:
    assert keys(tmp_path, "readme.mp4", "readme.txt") == ["readme.mp4", "readme.txt"]


def test_what_changed_is_counted() -> None:
    before = {"same": (1, "s"), "grown": (1, "s"), "touched": (1, "s"), "gone": (1, "s")}
    now = {"same": (1, "s"), "grown": (2, "s"), "touched": (1, "t"), "new": (1, "s")}
    assert Change.between(before, now) == Change(added=1, removed=1, changed=2)


def test_of_watchers_that_race_exactly_one_has_the_change(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first = claimed(Announcements(store, CLIPS), listing("a"))

    def claim(_: int) -> Arrival | None:
        return Announcements(store, CLIPS).claim(first, listing("a", "b"), settled=True)

    with ThreadPoolExecutor(8) as racers:
        won = [arrival for arrival in racers.map(claim, range(32)) if arrival is not None]
    assert len(won) == 1
    assert Announcements(store, CLIPS).newest() == won[0]


def test_files_that_come_go_and_come_again_are_three_changes() -> None:
    announcements = Announcements(MemoryStore(), CLIPS)
    seen = [claimed(announcements, now) for now in (listing("a"), listing("b"), listing("a"))]
    assert [arrival.seq for arrival in seen] == [1, 2, 3]
    assert seen[0].listing == seen[2].listing
    assert (seen[2].added, seen[2].removed) == (1, 1)


def test_a_change_that_was_found_and_not_announced_is_known_to_be_so() -> None:
    announcements = Announcements(MemoryStore(), CLIPS)
    arrival = claimed(announcements, listing("a"))
    assert not announcements.is_sent(arrival)
    announcements.note_sent(arrival)
    assert announcements.is_sent(arrival)


def test_only_the_last_two_changes_are_kept() -> None:
    store = MemoryStore()
    announcements = Announcements(store, CLIPS)
    for number in range(5):
        announcements.note_sent(claimed(announcements, listing(f"{number}")))
    names = sorted(key.rpartition("/")[2] for key in store.objects)
    assert names == ["00000004.json", "00000004.sent", "00000005.json", "00000005.sent"]


def test_datasets_do_not_share_changes() -> None:
    store = MemoryStore()
    claimed(Announcements(store, CLIPS), listing("a"))
    assert Announcements(store, "file:///other").newest() is None


def test_what_cannot_be_read_says_what_to_remove() -> None:
    store = MemoryStore()
    claimed(Announcements(store, CLIPS), listing("a"))
    (key,) = store.objects
    store.write(key, b"{}")
    with pytest.raises(IntegrityError, match=r"remove arrivals/[0-9a-f]{32}/ there"):
        Announcements(store, CLIPS).newest()


def test_a_ledger_knows_just_the_files_of_its_survey(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.mp4").write_bytes(b"x")
        (tmp_path / f"{number}.txt").write_text("a circle")
    dataset, store = LocalStore(tmp_path), MemoryStore()
    ledger = Ledger(store, dataset.url)

    def is_known() -> bool:
        found = list_files(dataset)
        return ledger.is_of(found.videos, found.texts)

    assert not is_known()
    for clip in find_clips(dataset, ledger):
        assert clip.info is not None
        known = {"size": clip.info.size, "stamp": clip.info.stamp, "sha256": "0" * 64}
        fault = {"reason": "unreadable", "detail": "no video"}
        ledger.remember(clip.key, Probed.model_validate({**known, "facts": None, "fault": fault}))
    assert is_known()
    (tmp_path / "0.txt").write_text("another caption")
    assert not is_known()
