"""What a plan lacks is made, once; what cannot be made is named, not skipped."""

import gc
from pathlib import Path

import av
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from cogvx.cache.plan import latent_key
from cogvx.data.manifest import Clip, Refused
from cogvx.digest import sha256_file
from cogvx.encoding import EncodeReport, Encoders
from cogvx.encoding.sources import Pixels, Sources, Window
from cogvx.errors import ConfigError, DataError, IntegrityError, TransientError
from cogvx.model.identity import TEXT_PARTS
from cogvx.shapes import VideoSize
from cogvx.store import LocalStore, MemoryStore
from tests.cache.toys import recipe
from tests.data.test_scratch import folder_with_a_clip
from tests.encoding.benches import RECIPE, Bench


def test_a_records_bits_do_not_depend_on_what_is_encoded_beside_it(
    bench: Bench, clips: tuple[Clip, ...]
) -> None:
    bench.encode(bench.plan(clips[1:]))
    together = dict(bench.store.objects)
    bench.store.objects.clear()
    bench.encode(bench.plan(clips[1:2]))
    alone = dict(bench.store.objects)
    assert alone.items() <= together.items()
    assert len(alone) == 3


def test_the_second_time_nothing_is_left_to_encode(bench: Bench, clips: tuple[Clip, ...]) -> None:
    first = bench.encode(bench.plan(clips))
    assert first == EncodeReport(encoded_latents=3, encoded_prompts=3)
    stored = dict(bench.store.objects)
    again = bench.plan(clips)
    assert again.is_complete
    assert bench.encode(again) == EncodeReport(0, 0)
    assert bench.store.objects == stored


def test_only_the_part_of_the_model_that_is_needed_is_loaded(
    encoders: Encoders, bench: Bench, clips: tuple[Clip, ...], tmp_path: Path
) -> None:
    bench.encode(bench.plan(clips))
    # There is no model in this folder: loading any part of it would fail.
    bench.encoders = Encoders(tmp_path / "nowhere", encoders.facts, encoders.ids)
    bench.encode(bench.plan(clips))
    new_caption = clips[0].model_copy(update={"caption": "another caption"})
    (text_only := tmp_path / "text only").mkdir()
    for part in TEXT_PARTS:
        (text_only / part).symlink_to(encoders.folder / part)
    bench.encoders = Encoders(text_only, encoders.facts, encoders.ids)
    assert bench.encode(bench.plan((new_caption,))) == EncodeReport(0, 1)


def test_progress_is_told_of_each_kind(bench: Bench, clips: tuple[Clip, ...]) -> None:
    bench.encode(bench.plan(clips))
    steps = [("clips", done, 3) for done in (1, 2, 3)]
    assert bench.progress == steps + [("captions", done, 3) for done in (1, 2, 3)]


def test_no_clip_is_left_in_the_work_folder(bench: Bench, clips: tuple[Clip, ...]) -> None:
    bench.encode(bench.plan(clips))
    assert list(bench.work.rglob("*")) == []


def test_what_a_killed_worker_left_a_day_ago_goes(bench: Bench, clips: tuple[Clip, ...]) -> None:
    left = folder_with_a_clip(bench.work / "encode-abc123_x", hours=25)
    bench.encode(bench.plan(clips[:1]))
    assert not left.exists()


def test_clips_in_a_folder_are_read_where_they_are(
    bench: Bench, clips: tuple[Clip, ...], world_clips: Path
) -> None:
    bench.dataset = LocalStore(world_clips)
    before = sorted(world_clips.rglob("*"))
    # Even if somebody's clips lie below the work folder, they are not tidied away.
    bench.work = world_clips
    assert bench.encode(bench.plan(clips)).encoded_latents == 3
    assert sorted(world_clips.rglob("*")) == before


def test_a_bad_clip_is_refused_with_its_reason_and_the_others_go_on(
    bench: Bench, clips: tuple[Clip, ...], world_clips: Path
) -> None:
    bad = b"this is no video"
    bench.dataset.write("bad.mp4", bad)
    (bench.work.parent / "bad").write_bytes(bad)
    update = {"key": "bad.mp4", "sha256": sha256_file(bench.work.parent / "bad")}
    undecodable = clips[0].model_copy(update=update)
    changed = clips[1].model_copy(update={"sha256": "0" * 64})
    missing = clips[1].model_copy(update={"key": "gone.mp4", "sha256": "1" * 64})
    report = bench.encode(bench.plan((undecodable, changed, missing, clips[2])))
    assert {clip.key: clip.reason for clip in report.refused} == {
        "bad.mp4": "undecodable",
        changed.key: "changed",
        "gone.mp4": "missing",
    }
    assert report.encoded_latents == 1
    assert bench.latents(clips[2]).isfinite().all()
    assert [key for key in bench.store.objects if "latents" in key] == [
        latent_key(clips[2], RECIPE, bench.encoders.ids).path
    ]


def test_a_clip_that_may_not_be_read_for_a_moment_is_not_condemned(
    bench: Bench, clips: tuple[Clip, ...]
) -> None:
    class Forbidding(MemoryStore):
        def fetch(self, key: str, folder: Path) -> Path:
            if key == clips[0].key:
                raise PermissionError(13, "Permission denied", key)
            return super().fetch(key, folder)

    forbidding = Forbidding()
    forbidding.objects = bench.dataset.objects
    bench.dataset = forbidding
    (refused,) = bench.encode(bench.plan(clips)).refused
    assert (refused.key, refused.reason) == (clips[0].key, "forbidden")


def test_a_clip_whose_mount_fails_for_a_moment_is_tried_again_and_not_condemned(
    bench: Bench, clips: tuple[Clip, ...], tmp_path: Path
) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / clips[0].key).symlink_to("/proc/self/mem")  # its first page may not be read
    bench.dataset = LocalStore(mounted)
    with pytest.raises(TransientError, match=f"^{clips[0].key}: .*Input/output error"):
        bench.encode(bench.plan(clips[:1]))


@pytest.mark.parametrize("reason", ["missing", "changed"])
def test_a_file_that_goes_while_it_is_decoded_is_not_called_undecodable(
    bench: Bench,
    clips: tuple[Clip, ...],
    world_clips: Path,
    tmp_path: Path,
    reason: str,
) -> None:
    path = tmp_path / "clips" / "a.mp4"
    path.parent.mkdir()
    path.write_bytes((world_clips / clips[0].key).read_bytes())
    clip = clips[0].model_copy(update={"key": "a.mp4"})
    later = clip.model_copy(update={"start_frame": 1})

    windows = [
        Window(one, latent_key(one, RECIPE, bench.encoders.ids), latents=True, images=())
        for one in (clip, later)
    ]
    sources = Sources(LocalStore(path.parent), tmp_path / "copies", windows, dtype=torch.float32)
    assert isinstance(sources.read(windows[0]), Pixels)
    path.unlink()
    if reason == "changed":
        path.write_bytes(b"something else")
    refused = sources.read(windows[1])
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.sha256) == (reason, clip.sha256)


def test_a_dataset_that_does_not_answer_stops_the_work_and_keeps_what_is_done(
    bench: Bench, clips: tuple[Clip, ...]
) -> None:
    class Failing(MemoryStore):
        def fetch(self, key: str, folder: Path) -> Path:
            if key == clips[2].key:
                raise TransientError("503")
            return super().fetch(key, folder)

    failing = Failing()
    failing.objects = bench.dataset.objects
    bench.dataset = failing
    with pytest.raises(TransientError):
        bench.encode(bench.plan(clips))
    assert len(bench.plan(clips).clips) == 1


def test_a_plan_for_another_recipe_is_refused(bench: Bench, clips: tuple[Clip, ...]) -> None:
    with pytest.raises(IntegrityError, match="made for another recipe or base model than toy"):
        bench.encode(bench.plan(clips), recipe(video={"fps": 4}))
    assert bench.store.objects == {}


def test_latents_that_are_not_finite_are_refused_with_the_clips_name(
    bench: Bench, clips: tuple[Clip, ...], nano_base: Path, tmp_path: Path
) -> None:
    vae = AutoencoderKLCogVideoX.from_pretrained(nano_base, subfolder="vae")
    vae.encoder.conv_in.conv.bias.data.fill_(float("nan"))
    vae.save_pretrained(tmp_path / "broken" / "vae")
    bench.encoders = Encoders(tmp_path / "broken", bench.encoders.facts, bench.encoders.ids)
    with pytest.raises(DataError, match=f"{clips[0].key}: .*not finite"):
        bench.encode(bench.plan(clips))
    assert bench.store.objects == {}


def test_the_vae_is_gone_before_the_text_encoder_is_loaded(
    bench: Bench, clips: tuple[Clip, ...]
) -> None:
    def vaes() -> int:
        return sum(type(thing) is AutoencoderKLCogVideoX for thing in gc.get_objects())

    before, seen = vaes(), {}

    def look(kind: str, _done: int, _total: int) -> None:
        if kind not in seen:
            seen[kind] = vaes() - before

    bench.on_progress = look
    bench.encode(bench.plan(clips))
    assert seen == {"clips": 1, "captions": 0}


def test_what_another_worker_made_meanwhile_is_not_made_again(
    bench: Bench, clips: tuple[Clip, ...]
) -> None:
    plan = bench.plan(clips)
    first = plan.model_copy(update={"clips": plan.clips[:2], "captions": plan.captions[:2]})
    assert bench.encode(first).encoded == 4
    report = bench.encode(plan)
    assert (report.encoded_latents, report.encoded_prompts) == (1, 1)
    assert bench.progress[-1] == ("captions", 3, 3)
    assert bench.encode(plan).encoded == 0


def test_windows_of_one_clip_fetch_it_once(bench: Bench, clips: tuple[Clip, ...]) -> None:
    fetched: list[str] = []

    class Counting(MemoryStore):
        def fetch(self, key: str, folder: Path) -> Path:
            fetched.append(key)
            return super().fetch(key, folder)

    counting = Counting()
    counting.objects = bench.dataset.objects
    bench.dataset = counting
    short = VideoSize(5, 48, 48)
    windows = [
        clip.model_copy(update={"size": short, "start_frame": start, "flip": flip})
        for clip in clips
        for start in (0, 4)
        for flip in (False, True)
    ]
    assert bench.encode(bench.plan(tuple(windows))).encoded_latents == 12
    assert sorted(fetched) == sorted(clip.key for clip in clips)
    assert list(bench.work.rglob("*")) == []


def test_windows_of_one_clip_share_what_is_known_of_its_track(
    clips: tuple[Clip, ...],
    encoders: Encoders,
    world_clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    av_open = av.open

    def watched(file: str, **options: object) -> object:
        opened.append(file)
        return av_open(file, **options)

    monkeypatch.setattr(av, "open", watched)
    key = latent_key(clips[0], RECIPE, encoders.ids)
    windows = [Window(clips[0], key, latents=True, images=())] * 3

    def times_opened(windows: list[Window]) -> int:
        opened.clear()
        sources = Sources(LocalStore(world_clips), tmp_path, windows, dtype=torch.float32)
        assert all(isinstance(sources.read(window), Pixels) for window in windows)
        return len(opened)

    for_the_track = 2
    for_a_window = times_opened(windows[:1]) - for_the_track
    assert times_opened(windows) == for_the_track + 3 * for_a_window


def test_a_clip_whose_windows_are_bad_is_refused_once(
    bench: Bench, clips: tuple[Clip, ...]
) -> None:
    gone = [clips[0].model_copy(update={"key": "gone.mp4", "start_frame": at}) for at in (0, 1)]
    report = bench.encode(bench.plan((*gone, clips[1])))
    assert [clip.key for clip in report.refused] == ["gone.mp4"]
    assert report.encoded_latents == 1
    assert bench.progress[2] == ("clips", 3, 3)


@pytest.mark.parametrize("records", ["latents", "prompts"])
def test_a_store_that_fails_stops_the_work_and_the_clip_or_caption_is_named(
    bench: Bench, clips: tuple[Clip, ...], records: str
) -> None:
    class Refusing(MemoryStore):
        def create(self, key: str, data: bytes) -> bool:
            if records in key and len(self.objects) >= 2:
                raise TransientError("503")
            return super().create(key, data)

    bench.store = Refusing()
    names = "|".join(clip.key for clip in clips) if records == "latents" else "the caption .*"
    with pytest.raises(TransientError, match=f"^({names}): 503$"):
        bench.encode(bench.plan(clips))
    bench.store.__class__ = MemoryStore
    assert bench.encode(bench.plan(clips)).encoded > 0
    assert bench.plan(clips).is_complete


def test_a_full_disk_is_a_sentence_with_the_clips_name(
    bench: Bench, clips: tuple[Clip, ...]
) -> None:
    class Full(MemoryStore):
        def create(self, key: str, data: bytes) -> bool:
            raise OSError(28, "No space left on device")

    bench.store = Full()
    with pytest.raises(ConfigError, match=r"\.mp4: the store memory:// cannot be .*No space left"):
        bench.encode(bench.plan(clips))
