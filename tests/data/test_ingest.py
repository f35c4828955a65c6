import hashlib
import json
import os
from pathlib import Path

import pytest
from transformers import T5TokenizerFast

from cogvx.data.ingest import Ledger, ingest
from cogvx.data.look import look
from cogvx.data.manifest import ClipFacts, ClipLook, Fault, Manifest, Refused
from cogvx.data.screen import Screen
from cogvx.data.split import choose_heldout
from cogvx.data.tokens import TokenCounter
from cogvx.data.windows import Bucket
from cogvx.digest import sha256_file
from cogvx.errors import DataError, IntegrityError, TransientError
from cogvx.model.nano.carried import carried_nano
from cogvx.recipe_sections import DatasetConfig, VideoConfig
from cogvx.store import LocalStore, MemoryStore
from tests.data.clips import free_box, write_clip
from tests.data.test_scratch import folder_with_a_clip

VIDEO = VideoConfig(frames=9, height=48, width=48, fps=8)


class CountingStore(LocalStore):
    """A folder that remembers what was fetched and read, and can fail as a network does."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fetched: list[str] = []
        self.texts: list[str] = []
        self.fail_at: str | None = None

    def fetch(self, key: str, folder: Path) -> Path:
        if key == self.fail_at:
            raise TransientError("the network is away")
        self.fetched.append(key)
        return super().fetch(key, folder)

    def read(self, key: str) -> bytes:
        self.texts.append(key)
        return super().read(key)


def config(**changes: object) -> DatasetConfig:
    return DatasetConfig.model_validate({"uri": "clips", **changes})


def run(
    dataset: LocalStore | MemoryStore,
    records: MemoryStore,
    work: Path,
    *,
    video: VideoConfig = VIDEO,
    seen: list[tuple[int, int]] | None = None,
    **changes: object,
) -> Manifest:
    return ingest(
        dataset,
        config=config(**changes),
        video=video,
        ledger=Ledger.load(records, dataset.url),
        work=work,
        on_progress=lambda done, total: (seen if seen is not None else []).append((done, total)),
    )


def add(folder: Path, name: str, caption: str | None = "a grey field", **facts: int) -> Path:
    path = write_clip(folder / name, **facts)  # type: ignore[arg-type]
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six good clips, each with its own bytes."""
    for number in range(6):
        add(tmp_path / "clips", f"{number}.mp4", f"field {number}", seed=number)
    return tmp_path / "clips"


def test_a_manifest_tells_bytes_captions_and_facts(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    manifest = run(LocalStore(folder), MemoryStore(), tmp_path / "work", seen=seen)
    assert [clip.key for clip in manifest.clips] == [f"{number}.mp4" for number in range(6)]
    first = manifest.clips[0]
    assert first.sha256 == hashlib.sha256((folder / "0.mp4").read_bytes()).hexdigest()
    assert first.caption == "field 0"
    plain = first.facts.model_copy(update={"look": None})
    assert plain == ClipFacts(width=64, height=48, frames=24, fps=8.0, codec="h264")
    assert first.facts.look == look(folder / "0.mp4")
    assert manifest.dataset == folder.resolve().as_uri()
    assert manifest.rejected == ()
    assert seen == [(done, 6) for done in range(7)]
    assert list((tmp_path / "work").iterdir()) == []


def test_every_kind_of_bad_clip_is_set_aside_and_counted(folder: Path, tmp_path: Path) -> None:
    (folder / "text.mp4").write_text("no video")
    (folder / "text.txt").write_text("a text")
    add(folder, "short.mp4", frames=8, seed=7)
    add(folder, "slow.mp4", fps=4, seed=8)
    add(folder, "small.mp4", height=46, seed=9)
    add(folder, "silent.mp4", caption=None, seed=10)
    (folder / "twin.mp4").write_bytes((folder / "0.mp4").read_bytes())
    (folder / "twin.txt").write_text("another caption")
    manifest = run(LocalStore(folder), MemoryStore(), tmp_path / "work")
    assert manifest.rejected_counts() == {
        "caption": 1,
        "duplicate": 1,
        "too_short": 1,
        "too_slow": 1,
        "too_small": 1,
        "unreadable": 1,
    }
    details = {item.key: item.detail for item in manifest.rejected}
    assert details["twin.mp4"] == "it is the same file as 0.mp4"
    assert details["silent.mp4"] == "there is no silent.txt beside it"
    assert "8 frames at 8 fps are fewer than the 9" in details["short.mp4"]
    assert len(manifest.clips) == 6


@pytest.mark.timeout(30)
def test_a_listing_that_is_a_pipe_is_named(tmp_path: Path) -> None:
    add(tmp_path, "a.mp4", caption=None)
    os.mkfifo(tmp_path / "metadata.jsonl")
    with pytest.raises(IntegrityError, match=r"metadata\.jsonl in .* is no file but a pipe"):
        run(LocalStore(tmp_path), MemoryStore(), tmp_path / "work")


def test_of_two_equal_files_the_one_with_a_caption_is_used(folder: Path, tmp_path: Path) -> None:
    (folder / "aa.mp4").write_bytes((folder / "5.mp4").read_bytes())
    manifest = run(LocalStore(folder), MemoryStore(), tmp_path / "work")
    assert manifest.rejected_counts() == {"caption": 1}
    assert "5.mp4" in [clip.key for clip in manifest.clips]


def test_unchanged_clips_are_neither_fetched_nor_probed_again(folder: Path, tmp_path: Path) -> None:
    (folder / "text.mp4").write_text("no video")
    (folder / "text.txt").write_text("a text")
    dataset, records = CountingStore(folder), MemoryStore()
    first = run(dataset, records, tmp_path / "work")
    assert len(dataset.fetched) == 7
    written = dict(records.objects)
    again = CountingStore(folder)
    assert run(again, records, tmp_path / "work") == first
    assert (again.fetched, again.texts) == ([], [])
    assert records.objects == written
    add(folder, "3.mp4", "a new field 3", seed=33)
    changed = run(again, records, tmp_path / "work")
    assert (again.fetched, again.texts) == (["3.mp4"], ["3.txt"])
    assert changed.content_digest() != first.content_digest()


def test_a_clip_edited_to_the_same_size_is_probed_again(folder: Path, tmp_path: Path) -> None:
    path = folder / "3.mp4"
    clip = path.read_bytes()
    path.write_bytes(clip + free_box(b"one"))
    dataset, records = CountingStore(folder), MemoryStore()
    run(dataset, records, tmp_path / "work")
    dataset.fetched.clear()
    before = path.stat()
    path.write_bytes(clip + free_box(b"two"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    assert path.stat().st_size == before.st_size
    manifest = run(dataset, records, tmp_path / "work")
    assert dataset.fetched == ["3.mp4"]
    assert manifest.clips[3].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_new_caption_needs_no_new_look_at_the_clip(folder: Path, tmp_path: Path) -> None:
    dataset, records = CountingStore(folder), MemoryStore()
    run(dataset, records, tmp_path / "work")
    dataset.fetched.clear()
    (folder / "2.txt").write_text("a new caption")
    manifest = run(dataset, records, tmp_path / "work")
    assert manifest.clips[2].caption == "a new caption"
    assert dataset.fetched == []


def test_a_recipe_of_another_size_screens_anew_without_fetching(
    folder: Path, tmp_path: Path
) -> None:
    dataset, records = CountingStore(folder), MemoryStore()
    run(dataset, records, tmp_path / "work")
    dataset.fetched.clear()
    larger = VIDEO.model_copy(update={"width": 96})
    with pytest.raises(DataError, match=r"6 of 6 clips are rejected \(too_small 6\)"):
        run(dataset, records, tmp_path / "work", video=larger)
    assert dataset.fetched == []


def damaged(key: str, dataset: LocalStore) -> Refused:
    return Refused(
        key=key,
        sha256=sha256_file(dataset.root / key),
        reason="undecodable",
        detail="the file is damaged at frame 7",
    )


def test_a_refused_clip_stays_refused_while_its_bytes_stay_the_same(
    folder: Path, tmp_path: Path
) -> None:
    dataset, records = CountingStore(folder), MemoryStore()
    run(dataset, records, tmp_path / "work")
    ledger = Ledger.load(records, dataset.url)
    ledger.refuse(damaged("4.mp4", dataset))
    ledger.save()
    manifest = run(dataset, records, tmp_path / "work")
    assert [item.model_dump() for item in manifest.rejected] == [
        {"key": "4.mp4", "reason": "undecodable", "detail": "the file is damaged at frame 7"}
    ]
    (folder / "4.mp4").touch()
    assert run(dataset, records, tmp_path / "work").rejected == manifest.rejected
    add(folder, "4.mp4", "field 4", seed=44)
    assert run(dataset, records, tmp_path / "work").rejected == ()


def test_a_verdict_on_bytes_that_are_no_longer_there_is_none(folder: Path, tmp_path: Path) -> None:
    dataset, records = CountingStore(folder), MemoryStore()
    run(dataset, records, tmp_path / "work")
    verdict = damaged("4.mp4", dataset)
    add(folder, "4.mp4", "field 4", seed=44)
    run(dataset, records, tmp_path / "work")
    ledger = Ledger.load(records, dataset.url)
    written = dict(records.objects)
    ledger.refuse(verdict)
    ledger.save()
    assert records.objects == written
    assert run(dataset, records, tmp_path / "work").rejected == ()


@pytest.mark.parametrize("reason", ["missing", "changed", "forbidden"])
def test_a_clip_that_was_away_for_a_moment_is_looked_at_again(
    folder: Path, tmp_path: Path, reason: str
) -> None:
    dataset, records = CountingStore(folder), MemoryStore()
    run(dataset, records, tmp_path / "work")
    ledger = Ledger.load(records, dataset.url)
    ledger.refuse(damaged("4.mp4", dataset).model_copy(update={"reason": reason}))
    ledger.save()
    dataset.fetched.clear()
    assert run(dataset, records, tmp_path / "work").rejected == ()
    assert dataset.fetched == ["4.mp4"]


def test_an_interrupted_ingest_leaves_no_files_and_can_be_repeated(
    folder: Path, tmp_path: Path
) -> None:
    dataset, records = CountingStore(folder), MemoryStore()
    dataset.fail_at = "5.mp4"
    with pytest.raises(TransientError):
        run(dataset, records, tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []
    dataset.fail_at = None
    dataset.fetched.clear()
    assert len(run(dataset, records, tmp_path / "work").clips) == 6
    assert dataset.fetched == ["5.mp4"]


def test_what_a_killed_survey_left_a_day_ago_goes(folder: Path, tmp_path: Path) -> None:
    left = folder_with_a_clip(tmp_path / "work" / "probe-abc123_x", hours=25)
    run(LocalStore(folder), MemoryStore(), tmp_path / "work")
    assert not left.exists()


def test_fetched_files_are_removed_again(folder: Path, tmp_path: Path) -> None:
    bucket = MemoryStore()
    for path in folder.iterdir():
        bucket.write(path.name, path.read_bytes())
    from_bucket = run(bucket, MemoryStore(), tmp_path / "work")
    from_folder = run(LocalStore(folder), MemoryStore(), tmp_path / "work")
    assert from_bucket.clips == from_folder.clips
    assert list((tmp_path / "work").iterdir()) == []


def test_a_text_that_is_no_caption_is_read_once_until_it_is_mended(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "5.txt").write_bytes(b"caf\xe9")
    dataset, records = CountingStore(folder), MemoryStore()
    first = run(dataset, records, tmp_path / "work")
    dataset.texts.clear()
    assert run(dataset, records, tmp_path / "work") == first
    assert first.rejected[0].detail.startswith("5.txt is not UTF-8")
    assert dataset.texts == []
    (folder / "5.txt").write_text("coffee")
    assert run(dataset, records, tmp_path / "work").rejected == ()


def test_captions_are_counted_and_a_long_one_is_no_fault(folder: Path, tmp_path: Path) -> None:
    (folder / "5.txt").write_text("a grey field " * 100)
    dataset = LocalStore(folder)
    manifest = ingest(
        dataset,
        config=config(),
        video=VIDEO,
        ledger=Ledger(MemoryStore(), dataset.url),
        work=tmp_path / "work",
        on_progress=lambda _done, _total: None,
        count_tokens=TokenCounter.of(carried_nano()),
    )
    assert manifest.rejected == ()
    # The nano model knows neither word, so it spells them.
    assert [clip.tokens for clip in manifest.clips[:5]] == [manifest.clips[0].tokens] * 5
    assert manifest.clips[5].tokens == tokens_of("a grey field " * 100)
    assert run(dataset, MemoryStore(), tmp_path / "work").clips[0].tokens is None


def tokens_of(caption: str) -> int:
    tokenizer = T5TokenizerFast.from_pretrained(carried_nano() / "tokenizer", local_files_only=True)
    return len(tokenizer(caption, truncation=False).input_ids)


def test_clips_that_left_the_dataset_leave_the_ledger(folder: Path, tmp_path: Path) -> None:
    dataset, records = LocalStore(folder), MemoryStore()
    run(dataset, records, tmp_path / "work")
    (folder / "5.mp4").unlink()
    (folder / "5.txt").unlink()
    run(dataset, records, tmp_path / "work")
    ledger = Ledger.load(records, dataset.url)
    assert ledger.last("5.mp4") is None
    assert b"5.txt" not in records.read(ledger.path)
    assert ledger.last("4.mp4") is not None


def test_a_damaged_ledger_is_named_and_not_replaced(folder: Path) -> None:
    records = MemoryStore()
    url = LocalStore(folder).url
    path = Ledger(records, url).path
    records.write(path, b'{"clips": 3}')
    with pytest.raises(IntegrityError, match=f"{path} in memory:// is damaged; delete it"):
        Ledger.load(records, url)


def test_facts_of_an_older_probe_are_forgotten(folder: Path, tmp_path: Path) -> None:
    dataset, records = CountingStore(folder), MemoryStore()
    run(dataset, records, tmp_path / "work")
    path = Ledger(records, dataset.url).path
    document = json.loads(records.read(path))
    records.write(path, json.dumps({**document, "probe_version": 0}).encode())
    dataset.fetched.clear()
    run(dataset, records, tmp_path / "work")
    assert len(dataset.fetched) == 6


def test_a_verdict_on_a_clip_that_another_survey_dropped_is_none(folder: Path) -> None:
    dataset, records = LocalStore(folder), MemoryStore()
    ledger = Ledger(records, dataset.url)
    ledger.refuse(damaged("4.mp4", dataset))
    ledger.save()
    assert ledger.last("4.mp4") is None
    assert records.objects == {}


def test_too_many_rejected_clips_stop_the_run_with_counts_and_examples(
    folder: Path, tmp_path: Path
) -> None:
    for number in range(4):
        add(folder, f"bad{number}.mp4", caption=None, seed=10 + number)
    add(folder, "short.mp4", frames=3, seed=20)
    arguments = (LocalStore(folder), MemoryStore(), tmp_path / "work")
    assert len(run(*arguments).clips) == 6
    with pytest.raises(DataError) as caught:
        run(*arguments, max_rejected_share=0.4)
    message = str(caught.value)
    assert "5 of 11 clips are rejected" in message
    assert "dataset.max_rejected_share = 0.4 (caption 4, too_short 1)" in message
    assert "  - short.mp4: 3 frames" in message
    assert message.count("\n  - ") == 5


def test_a_dataset_without_a_usable_clip_is_refused_whatever_the_share(tmp_path: Path) -> None:
    add(tmp_path / "clips", "a.mp4", frames=2)
    arguments = (LocalStore(tmp_path / "clips"), MemoryStore(), tmp_path / "work")
    with pytest.raises(DataError, match=r"1 of 1 clips are rejected \(too_short 1\)"):
        run(*arguments, max_rejected_share=1.0)


def test_the_manifest_is_the_same_however_often_it_is_made(folder: Path, tmp_path: Path) -> None:
    manifests = [run(LocalStore(folder), MemoryStore(), tmp_path / "work") for _ in range(2)]
    assert manifests[0] == manifests[1]


def facts(**changes: object) -> ClipFacts:
    plain = {"width": 720, "height": 480, "frames": 49, "fps": 8.0, "codec": "h264"}
    return ClipFacts.model_validate({**plain, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"frames": 48}, "too_short"),
        ({"fps": 24.0, "frames": 145}, None),
        ({"fps": 24.0, "frames": 144}, "too_short"),
        ({"fps": 7.7}, None),
        ({"fps": 7.5}, "too_slow"),
        ({"height": 479}, "too_small"),
        ({"width": 719}, "too_small"),
        ({"width": 480, "height": 720}, "too_small"),
        ({"width": 7200, "height": 4800}, None),
    ],
)
def test_a_clip_must_hold_the_window_without_anything_made_up(
    changes: dict[str, float], reason: str | None
) -> None:
    screen = Screen(config(), VideoConfig(frames=49, height=480, width=720, fps=8))
    verdict = screen.judge("a.mp4", "0" * 64, facts(**changes))
    assert (verdict.reason if isinstance(verdict, Fault) else None) == reason


def test_thresholds_of_zero_accept_black_stills_and_any_cut() -> None:
    look = ClipLook(brightness=0.0, motion=0.0, frames_sha256="1" * 64)
    still = facts(width=7200, look=look)
    video = VideoConfig(frames=49, height=480, width=720, fps=8)
    lenient = config(min_brightness=0, min_motion=0, min_kept_share=0)
    assert isinstance(Screen(lenient, video).judge("a.mp4", "0" * 64, still), Bucket)
    for name, reason in [("min_kept_share", "aspect"), ("min_brightness", "black")]:
        strict = config(**{**lenient.model_dump(), name: 0.5})
        verdict = Screen(strict, video).judge("a.mp4", "0" * 64, still)
        assert isinstance(verdict, Fault)
        assert verdict.reason == reason
        assert f"dataset.{name} = 0.5" in verdict.detail


def test_of_clips_with_equal_frames_the_first_usable_one_is_kept() -> None:
    screen = Screen(config(), VideoConfig(frames=49, height=480, width=720, fps=8))
    look = ClipLook(brightness=90.0, motion=9.0, frames_sha256="1" * 64)
    short, whole = facts(frames=9, look=look), facts(look=look)
    verdicts = [
        screen.judge("a", "a" * 64, short),
        screen.judge("b", "b" * 64, whole),
        screen.judge("c", "c" * 64, whole),
        screen.judge("d", "b" * 64, whole),
    ]
    reasons = [item.reason if isinstance(item, Fault) else None for item in verdicts]
    assert reasons == ["too_short", None, "same_frames", "duplicate"]


def shas(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def test_the_share_is_held_out_and_new_clips_move_no_old_one() -> None:
    before = choose_heldout(shas(2000), config=config(heldout_share=0.1))
    assert 150 < len(before) < 250
    after = choose_heldout(shas(4000), config=config(heldout_share=0.1))
    assert after & set(shas(2000)) == before


@pytest.mark.parametrize(
    ("clips", "share", "minimum", "expected"),
    [(10, 0.0, 0, 0), (10, 0.0, 3, 3), (2, 0.99, 1, 1), (1, 0.5, 0, 0), (30, 0.99, 1, None)],
)
def test_some_are_held_out_and_never_all(
    clips: int, share: float, minimum: int, expected: int | None
) -> None:
    heldout = choose_heldout(shas(clips), config=config(heldout_share=share, min_heldout=minimum))
    assert len(heldout) < clips
    assert expected is None or len(heldout) == expected


def test_the_rule_of_the_split_is_the_published_one() -> None:
    expected = {
        sha
        for sha in shas(100)
        if int(hashlib.sha256(f"heldout:{sha}".encode()).hexdigest()[:8], 16) / 2**32 < 0.2
    }
    assert choose_heldout(shas(100), config=config(heldout_share=0.2)) == expected


@pytest.mark.parametrize(("clips", "minimum"), [(1, 1), (3, 3), (2, 5)])
def test_too_few_clips_to_hold_any_out_are_refused(clips: int, minimum: int) -> None:
    with pytest.raises(DataError, match=f"bring at least {minimum + 1}"):
        choose_heldout(shas(clips), config=config(min_heldout=minimum))


def test_a_clip_whose_mount_fails_for_a_moment_is_looked_at_again_and_not_rejected(
    tmp_path: Path,
) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.txt").write_text("a box")
    (tmp_path / "clips" / "a.mp4").symlink_to("/proc/self/mem")  # its first page may not be read
    with pytest.raises(TransientError, match=r"not reached for a\.mp4: Input/output error"):
        run(LocalStore(tmp_path / "clips"), MemoryStore(), tmp_path / "work")
