from collections.abc import Iterable

import pytest

from cogvx.data.diff import diff_manifests
from cogvx.data.manifest import Clip, ClipFacts, Manifest
from cogvx.data.shelf import Shelf
from cogvx.errors import IntegrityError
from cogvx.shapes import VideoSize
from cogvx.store import MemoryStore

FACTS = ClipFacts(width=64, height=48, frames=24, fps=8.0, codec="h264")


def clip(key: str, sha256: str | None = None, caption: str = "a cat", start_frame: int = 0) -> Clip:
    return Clip(
        key=key,
        sha256=(sha256 or key).rjust(64, "0"),
        caption=caption,
        facts=FACTS,
        size=VideoSize(9, 48, 48),
        start_frame=start_frame,
    )


def manifest(clips: Iterable[Clip]) -> Manifest:
    return Manifest(dataset="memory://", clips=tuple(clips))


def test_added_removed_and_recaptioned_clips_are_counted_with_examples() -> None:
    before = manifest([clip("a"), clip("b"), clip("c")])
    after = manifest([clip("b"), clip("c", caption="a dog"), clip("d"), clip("e")])
    diff = diff_manifests(before, after)
    assert (diff.added.count, diff.added.examples) == (2, ("d", "e"))
    assert (diff.removed.count, diff.removed.examples) == (1, ("a",))
    assert diff.recaptioned.examples == ('c: "a cat" became "a dog"',)
    assert (diff.before, diff.after) == (before.content_digest(), after.content_digest())
    assert str(diff) == 'added 2 (d, e); removed 1 (a); recaptioned 1 (c: "a cat" became "a dog")'
    back = diff_manifests(after, before)
    assert (back.added.count, back.removed.count) == (1, 2)


def test_at_most_five_examples_and_short_ones() -> None:
    before = manifest(clip(str(n), caption="a cat " * 50) for n in range(9))
    after = manifest(clip(str(n), caption="a dog " * 50) for n in range(9))
    diff = diff_manifests(before, after)
    assert diff.recaptioned.count == 9
    assert len(diff.recaptioned.examples) == 5
    assert max(map(len, diff.recaptioned.examples)) < 150
    assert str(diff).endswith(", ...)")


def test_a_clip_is_its_bytes_and_windows_count_once() -> None:
    before = manifest([clip("a", "1"), clip("b", "2")])
    renamed = manifest([clip("x", "1"), clip("b", "2"), clip("b", "2", start_frame=9)])
    assert diff_manifests(before, renamed).is_empty
    assert str(diff_manifests(before, renamed)) == "the same clips and captions"
    replaced = diff_manifests(before, manifest([clip("a", "3"), clip("b", "2")]))
    assert (replaced.added.examples, replaced.removed.examples) == (("a",), ("a",))


def test_the_shelf_tells_what_the_latest_manifest_changed_however_often_it_comes() -> None:
    shelf = Shelf(MemoryStore(), "manifests/x")
    assert shelf.latest_name() is None
    first, second = manifest([clip("a")]), manifest([clip("a"), clip("b")])
    assert shelf.publish(first) is None
    assert shelf.publish(first) is None
    change = shelf.publish(second)
    assert change == diff_manifests(first, second)
    assert shelf.publish(second) == change
    assert shelf.last_change() == change
    assert shelf.read(second.content_digest()) == second
    assert shelf.publish(first) == diff_manifests(second, first)
    assert shelf.latest_name() == first.content_digest()


def test_publishing_again_writes_nothing_and_mends_what_was_damaged() -> None:
    store = MemoryStore()
    shelf = Shelf(store, "manifests/x")
    document = manifest([clip("a")])
    shelf.publish(document)
    before = {info.key: info.stamp for info in store.entries()}
    shelf.publish(document)
    assert {info.key: info.stamp for info in store.entries()} == before
    name = document.content_digest()
    store.write(f"manifests/x/{name}.json", b'{"clips": 3}')
    with pytest.raises(IntegrityError, match=name):
        shelf.read(name)
    shelf.publish(document)
    assert shelf.read(name) == document


def test_a_manifest_under_the_name_of_another_is_refused() -> None:
    store = MemoryStore()
    shelf = Shelf(store, "manifests/x")
    document = manifest([clip("a")])
    shelf.publish(document)
    other = "0" * 64
    store.write(f"manifests/x/{other}.json", document.model_dump_json().encode())
    with pytest.raises(IntegrityError, match="damaged; cache again"):
        shelf.read(other)


def test_a_manifest_that_cannot_be_read_any_more_tells_no_difference() -> None:
    store = MemoryStore()
    shelf = Shelf(store, "manifests/x")
    first = manifest([clip("a")])
    shelf.publish(first)
    store.write(f"manifests/x/{first.content_digest()}.json", b'{"schema_version": 0}')
    second = manifest([clip("a"), clip("b")])
    assert shelf.publish(second) is None
    assert shelf.latest_name() == second.content_digest()
