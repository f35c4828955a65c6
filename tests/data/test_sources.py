import json
import os
from pathlib import Path

import pytest

from cogvx.data.ledger import Ledger
from cogvx.data.sources import CaptionedClip, find_clips, list_files
from cogvx.errors import DataError
from cogvx.store import LocalStore, MemoryStore, ObjectStore


def dataset(**objects: bytes | str) -> MemoryStore:
    """A store with these objects; finding clips looks at names and captions only."""
    store = MemoryStore()
    for key, data in objects.items():
        store.write(key, data.encode() if isinstance(data, str) else data)
    return store


def with_table(table: str | bytes, *videos: str, name: str = "metadata.jsonl") -> MemoryStore:
    return dataset(**{name: table}, **dict.fromkeys(videos, b"video"))


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def row(file_name: str, text: object = "a cat") -> dict[str, object]:
    return {"file_name": file_name, "text": text}


def captions(store: ObjectStore) -> dict[str, str | None]:
    return {clip.key: clip.caption for clip in find_clips(store)}


def faults(store: ObjectStore) -> list[tuple[str, str]]:
    return [(clip.key, clip.fault.reason) for clip in find_clips(store) if clip.fault]


def only_fault(store: ObjectStore) -> CaptionedClip:
    (clip,) = (clip for clip in find_clips(store) if clip.fault)
    return clip


THE_SAME = {"a.mp4": "a red cat", "sub/b.mp4": "a dog, running"}
FORMS = {
    "jsonl": dataset(
        **{"metadata.jsonl": lines(row("sub/b.mp4", "a dog, running"), row("a.mp4", "a red cat"))},
        **{"a.mp4": b"1", "sub/b.mp4": b"2"},
    ),
    "csv": dataset(
        **{"metadata.csv": 'file_name,text\nsub/b.mp4,"a dog, running"\n./a.mp4,a red cat\n'},
        **{"a.mp4": b"1", "sub/b.mp4": b"2"},
    ),
    "aligned": dataset(
        **{"prompts.txt": "a dog, running\na red cat\n", "videos.txt": "sub/b.mp4\na.mp4\n\n"},
        **{"a.mp4": b"1", "sub/b.mp4": b"2"},
    ),
    "sidecars": dataset(
        **{"a.mp4": b"1", "a.txt": "a red cat\n", "sub/b.mp4": b"2"},
        **{"sub/b.txt": "a dog,\n running"},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_clips_in_the_order_of_their_keys(form: str) -> None:
    assert captions(FORMS[form]) == THE_SAME
    assert [clip.key for clip in find_clips(FORMS[form])] == sorted(THE_SAME)


@pytest.mark.parametrize("form", FORMS)
def test_byte_order_marks_and_windows_line_ends_change_nothing(form: str) -> None:
    store = MemoryStore()
    for key, data in FORMS[form].objects.items():
        is_text = key.endswith((".txt", ".csv", ".jsonl"))
        store.write(key, b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n") if is_text else data)
    assert captions(store) == THE_SAME


def test_a_folder_on_disk_is_read_like_a_bucket(tmp_path: Path) -> None:
    for key, data in FORMS["sidecars"].objects.items():
        LocalStore(tmp_path).write(key, data)
    (tmp_path / ".aside-000000000000-c.mp4").write_bytes(b"half")
    assert captions(LocalStore(tmp_path)) == THE_SAME


def test_captions_come_normalised() -> None:
    store = dataset(**{"a.mp4": b"1", "a.txt": "  A cafe\u0301 \t at\n\nnight "})
    assert captions(store) == {"a.mp4": "A café at night"}


def test_a_caption_in_csv_may_hold_commas_quotes_and_newlines() -> None:
    table = 'text,file_name\n"a ""big"" dog,\nrunning",a.mp4\n'
    store = with_table(table, "a.mp4", name="metadata.csv")
    assert captions(store) == {"a.mp4": 'a "big" dog, running'}


def test_odd_line_separators_in_prompts_do_not_shift_the_lines() -> None:
    store = dataset(
        **{"prompts.txt": "one\u2028still one\ntwo\x85still two", "videos.txt": "a.mp4\nb.mp4"},
        **{"a.mp4": b"1", "b.mp4": b"2"},
    )
    assert captions(store) == {"a.mp4": "one still one", "b.mp4": "two still two"}


def test_upper_case_suffixes_count_and_hidden_files_do_not() -> None:
    store = dataset(**{"A.MP4": b"1", "A.TXT": "a", "._A.mp4": b"junk", ".git/b.mp4": b"2"})
    assert captions(store) == {"A.MP4": "a"}


@pytest.mark.parametrize("store", [MemoryStore(), dataset(**{"notes.md": "x", "a.gif": b"x"})])
def test_a_place_without_videos_is_named_with_the_forms(store: ObjectStore) -> None:
    with pytest.raises(DataError) as caught:
        find_clips(store)
    message = str(caught.value)
    assert "\n" not in message
    for part in (store.url, "mp4", ".txt", "metadata.jsonl", "prompts.txt"):
        assert part in message


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist or holds no videos"):
        find_clips(LocalStore(tmp_path / "nowhere"))


def test_videos_without_any_caption_are_one_error() -> None:
    with pytest.raises(DataError, match="holds videos but no captions"):
        find_clips(dataset(**{"a.mp4": b"1", "b.mp4": b"2"}))


@pytest.mark.parametrize(
    ("extra", "first", "second"),
    [
        ({"metadata.jsonl": "", "metadata.csv": ""}, "metadata.jsonl", "metadata.csv"),
        ({"metadata.csv": "", "a.txt": ""}, "metadata.csv", "a.txt"),
        (
            {"metadata.jsonl": "", "prompts.txt": "", "videos.txt": ""},
            "metadata.jsonl",
            "videos.txt",
        ),
        ({"prompts.txt": "", "videos.txt": "", "a.txt": ""}, "videos.txt", "a.txt"),
    ],
)
def test_two_forms_at_once_name_the_files_that_clash(
    extra: dict[str, str], first: str, second: str
) -> None:
    with pytest.raises(DataError, match=f"two forms: {first} and {second}"):
        find_clips(dataset(**{"a.mp4": b"1"}, **extra))


@pytest.mark.parametrize(
    ("present", "absent"), [("prompts.txt", "videos.txt"), ("videos.txt", "prompts.txt")]
)
def test_half_of_the_aligned_pair_is_an_error(present: str, absent: str) -> None:
    with pytest.raises(DataError, match=f"{present} without {absent}"):
        find_clips(dataset(**{"a.mp4": b"1", present: "x"}))


def test_different_line_counts_are_both_named() -> None:
    store = dataset(**{"a.mp4": b"1", "prompts.txt": "a\nb\nc\n", "videos.txt": "a.mp4\nb.mp4\n"})
    with pytest.raises(DataError, match=r"prompts.txt has 3 lines and videos.txt has 2"):
        find_clips(store)


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("metadata.jsonl", b'{"file_name": "a.mp4", "text": "caf\xe9"}', "is not UTF-8 .byte 0xe9"),
        ("metadata.jsonl", lines(row("a.mp4")).encode("utf-16"), "is not UTF-8"),
        ("metadata.jsonl", b'{"file_name": "a.mp4"\0}', "NUL bytes"),
        ("metadata.jsonl", "\n{oops}\n", "line 2 is not JSON"),
        ("metadata.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("metadata.jsonl", '["a.mp4", "a"]', "line 1 is not an object"),
        ("metadata.jsonl", "", "has no file_name and no text, but nothing"),
        (
            "metadata.jsonl",
            '{"file_name": "a.mp4", "caption": "a"}',
            "has no text, but file_name, caption; rename",
        ),
        ("metadata.jsonl", lines(row("a.mp4"), {"text": "a"}), "line 2 names no file"),
        ("metadata.jsonl", lines(row("a.mp4"), row("  ")), "line 2 names no file"),
        ("metadata.csv", "file_name;text\na.mp4;a\n", "has no file_name and no text"),
        ("metadata.csv", "", "has no file_name and no text"),
        ("metadata.csv", "file_name,text\na.mp4,a dog, running\n", "line 2 has 3 cells under 2"),
        ("metadata.csv", 'file_name,text\na.mp4,"never closed\n', "is not CSV"),
        ("metadata.csv", "file_name,text\n,a\n", "line 2 names no file"),
        ("videos.txt", "a.mp4\n\nb.mp4", "videos.txt line 2 is empty"),
    ],
)
def test_a_document_that_cannot_be_read_is_one_clear_error(
    name: str, table: str | bytes, message: str
) -> None:
    store = with_table(table, "a.mp4", name=name)
    if name == "videos.txt":
        store.write("prompts.txt", b"1\n2\n3")
    with pytest.raises(DataError, match=message) as caught:
        find_clips(store)
    assert str(caught.value).startswith(store.url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "", " \n ", 7, ["a"], True, "a\0b", "a\x1bb", "\ud800"])
def test_what_is_no_caption_sets_the_clip_aside(text: object) -> None:
    store = with_table(lines(row("a.mp4", text), row("b.mp4")), "a.mp4", "b.mp4")
    assert faults(store) == [("a.mp4", "caption")]
    assert captions(store) == {"a.mp4": None, "b.mp4": "a cat"}


def test_a_caption_that_is_a_document_sets_the_clip_aside() -> None:
    longest = "a cat, " * 1142 + "a cat."
    assert len(longest) == 8000
    store = with_table(
        lines(row("a.mp4", longest + "."), row("b.mp4", longest + "\n ")), "a.mp4", "b.mp4"
    )
    clip = only_fault(store)
    assert clip.key == "a.mp4"
    assert clip.fault is not None
    assert clip.fault.reason == "caption"
    assert clip.fault.detail.startswith("its caption has 8001 characters, more than 8000;")


def test_a_short_row_in_csv_has_no_caption() -> None:
    store = with_table("file_name,text\na.mp4\nb.mp4,b\n", "a.mp4", "b.mp4", name="metadata.csv")
    assert faults(store) == [("a.mp4", "caption")]


def test_a_blank_prompt_between_others_sets_its_clip_aside() -> None:
    store = dataset(
        **{"prompts.txt": "a\n\nc\n", "videos.txt": "a.mp4\nb.mp4\nc.mp4\n"},
        **dict.fromkeys(("a.mp4", "b.mp4", "c.mp4"), b"1"),
    )
    assert faults(store) == [("b.mp4", "caption")]
    assert captions(store)["c.mp4"] == "c"


@pytest.mark.parametrize("name", ["../a.mp4", "/etc/a.mp4", "sub/../../a.mp4", "a\0.mp4"])
def test_a_path_that_climbs_out_sets_the_entry_aside(name: str) -> None:
    store = with_table(lines(row(name), row("b.mp4")), "b.mp4")
    assert faults(store) == [(name, "outside")]


def test_an_entry_without_its_file_is_missing() -> None:
    clip = only_fault(with_table(lines(row("a.mp4"), row("b.mp4")), "b.mp4"))
    assert clip.key == "a.mp4"
    assert clip.fault is not None
    assert clip.fault.reason == "missing"
    assert "line 1" in clip.fault.detail


def test_an_entry_that_stands_twice_is_kept_once() -> None:
    store = with_table(lines(row("a.mp4", "first"), row("./a.mp4", "second")), "a.mp4")
    first, second = find_clips(store)
    assert (first.caption, first.fault) == ("first", None)
    assert second.fault is not None
    assert second.fault.reason == "duplicate"
    assert "line 1 and again in line 2" in second.fault.detail


def test_a_video_that_no_line_names_is_set_aside_not_lost() -> None:
    clip = only_fault(with_table(lines(row("a.mp4")), "a.mp4", "new.mp4"))
    assert clip.key == "new.mp4"
    assert clip.fault is not None
    assert clip.fault.detail == "metadata.jsonl does not name it"


def test_sidecars_that_are_absent_or_no_text_set_the_clip_aside() -> None:
    store = dataset(
        **{"a.mp4": b"1", "a.txt": "a", "b.mp4": b"2", "c.mp4": b"3", "c.txt": b"\xff\xfea\0"},
        **{"d.mp4": b"4", "d.txt": b"a\0b\0", "e.mp4": b"5", "e.txt": "", "README.txt": "hello"},
    )
    assert faults(store) == [(f"{name}.mp4", "caption") for name in "bcde"]


def test_a_sidecar_without_its_video_is_missing() -> None:
    store = dataset(**{"a.mp4": b"1", "a.txt": "a", "b.txt": "b", "b.wmv": b"2"})
    assert faults(store) == [("b.txt", "missing")]


def test_a_name_that_is_no_utf8_can_be_written_down(tmp_path: Path) -> None:
    for name in (b"bad\xff.mp4", b"bad\xff.txt", b"a.mp4", b"a.txt"):
        (tmp_path / os.fsdecode(name)).write_text("a")
    clip = only_fault(LocalStore(tmp_path))
    assert clip.fault is not None
    assert clip.fault.reason == "unreadable"
    assert clip.key.encode().startswith(b"bad")


def test_ten_thousand_clips_are_found_in_seconds() -> None:
    store = dataset(**{f"{i:05}.mp4": b"1" for i in range(10_000)})
    store.write("metadata.jsonl", lines(*(row(f"{i:05}.mp4") for i in range(10_000))).encode())
    assert len(find_clips(store)) == 10_000


@pytest.mark.parametrize(
    "listed",
    [
        {"metadata.jsonl": lines(row("a.mp4"))},
        {"metadata.csv": "file_name,text\na.mp4,a cat\n"},
        {"prompts.txt": "a cat\n", "videos.txt": "a.mp4\n"},
        {"a.txt": "a cat"},
    ],
)
def test_all_texts_that_a_watcher_lists_are_known_after_a_survey(listed: dict[str, str]) -> None:
    store = dataset(**listed, **{"a.mp4": b"video"})
    ledger = Ledger(MemoryStore(), store.url)
    find_clips(store, ledger)
    texts = list_files(store).texts
    assert {info.key for info in texts} == set(listed)
    assert all(ledger.known_text(info) is not None for info in texts)
    assert captions(store) == {"a.mp4": "a cat"}
