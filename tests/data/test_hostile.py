"""What real folders hold: each thing is accepted with the right facts, or set aside with a reason.

Every case lies in a dataset of its own beside one good clip, which must come through. Nothing may
be written outside the work folder, and nothing may stay in it.
"""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cogvx.data.ingest import Ledger, ingest
from cogvx.data.manifest import Manifest
from cogvx.errors import DataError
from cogvx.recipe_sections import DatasetConfig, VideoConfig
from cogvx.store import LocalStore, MemoryStore
from tests.data.clips import damage, picture, rotate_clockwise, trim, write_clip, write_sound
from tests.data.test_look import grey, remux, write_pictures

pytestmark = pytest.mark.timeout(60)

Make = Callable[[Path], object]

VIDEO = VideoConfig(frames=9, height=48, width=48, fps=8)
GOOD = "zz-good.mp4"
LONG = "n" * 246
DEEP = "[" * 5000


@dataclass(frozen=True)
class Case:
    """A dataset's odd part: `facts` if `key` is accepted, else the reason and words of the detail.

    Without a key nothing but the good clip is found.
    """

    name: str
    make: Make
    key: str | None = "a.mp4"
    facts: dict[str, object] = field(default_factory=dict)
    reason: str | None = None
    says: str = ""


def accepted(name: str, make: Make, key: str = "a.mp4", **facts: object) -> Case:
    return Case(name, make, key, facts)


def refused(name: str, make: Make, reason: str, says: str, key: str = "a.mp4") -> Case:
    return Case(name, make, key, reason=reason, says=says)


def clip(name: str = "a.mp4", **facts: object) -> Make:
    """A clip with a caption beside it."""

    def make(folder: Path) -> Path:
        path = write_clip(folder / name, **{"seed": 5, **facts})  # type: ignore[arg-type]
        path.with_suffix(".txt").write_text("a grey field")
        return path

    return make


def spoilt(spoil: Callable[[Path], object], **facts: object) -> Make:
    return lambda folder: spoil(clip(**facts)(folder))


def content(data: bytes | str) -> Make:
    """Bytes that are called a.mp4, with a caption."""

    def make(folder: Path) -> None:
        (folder / "a.mp4").write_bytes(data.encode() if isinstance(data, str) else data)
        (folder / "a.txt").write_text("a grey field")

    return make


def captioned(data: bytes | str, name: str = "a.txt") -> Make:
    """A good clip with these bytes as its caption."""

    def make(folder: Path) -> None:
        write_clip(folder / "a.mp4", seed=5)
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)

    return make


def rows(*entries: object) -> Make:
    """A metadata.jsonl over a.mp4 and the good clip."""
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    return listed("metadata.jsonl", "\n".join([*lines, json.dumps(row(GOOD))]))


def listed(name: str, text: str | bytes) -> Make:
    def make(folder: Path) -> None:
        write_clip(folder / "a.mp4", seed=5)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return make


def row(file_name: str, text: object = "a grey field") -> dict[str, object]:
    return {"file_name": file_name, "text": text}


def cut(share: float) -> Callable[[Path], object]:
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


def renamed(name: str) -> Callable[[Path], object]:
    return lambda path: path.rename(path.parent / name)


def beside(make_file: Callable[[Path], object], name: str = "a.mp4") -> Make:
    """Whatever `make_file` puts at that name, with a caption."""

    def make(folder: Path) -> None:
        (folder / name).with_suffix(".txt").write_text("a grey field")
        make_file(folder / name)

    return make


def animation(path: Path) -> None:
    plain = path.with_suffix(".gif")
    write_clip(plain, codec="gif", pixel_format="rgb8", frames=12)
    plain.rename(path)


def still_picture(path: Path) -> None:
    from PIL import Image

    Image.fromarray(grey(100)).save(path, format="png")


def without_times(path: Path) -> None:
    """An elementary stream: frames one after another and no container."""
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def two_sizes(path: Path) -> None:
    parts = []
    for number, height in enumerate((48, 96)):
        part = write_clip(path.with_suffix(f".{number}.ts"), height=height, frames=24)
        parts.append(part.read_bytes())
        part.unlink()
    path.write_bytes(b"".join(parts))


def with_texts_and_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=44100)
        texts = container.add_mux_stream("mov_text")
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(24):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            container.mux(stream.encode(frame))
            silence = np.zeros((1, 1024), np.float32)
            heard = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            heard.sample_rate, heard.pts = 44100, number * 1024
            container.mux(sound.encode(heard))
            read = av.Packet(b"\0\2hi")
            read.stream, read.time_base = texts, Fraction(1, 1000)
            read.pts = read.dts = 100 * number
            read.duration = 100
            container.mux(read)
        container.mux(stream.encode())
        container.mux(sound.encode())


def timeless(path: Path) -> None:
    """Every frame is shown for no time at all."""
    data = bytearray(path.read_bytes())
    table = data.index(b"stts") + 4 + 4
    count = struct.unpack(">I", data[table : table + 4])[0]
    for entry in range(count):
        place = table + 4 + 8 * entry + 4
        data[place : place + 4] = struct.pack(">I", 0)
    if b"ctts" in data:
        data[data.index(b"ctts") : data.index(b"ctts") + 4] = b"free"
    path.write_bytes(data)


def tilted(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    half = int(0.7071 * (1 << 16))
    data[place : place + 36] = struct.pack(">9i", half, half, 0, -half, half, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def twin(folder: Path) -> None:
    shutil.copyfile(folder / GOOD, folder / "zzz.mp4")
    (folder / "zzz.txt").write_text("the same again")


def same_frames(folder: Path) -> None:
    remux(folder / GOOD, folder / "zzz.mkv")
    (folder / "zzz.txt").write_text("the same again")


def linked_file(folder: Path) -> None:
    path = clip()(folder)
    path.rename(folder.parent / "elsewhere.mp4")
    path.symlink_to(folder.parent / "elsewhere.mp4")


def caption_that_is(make_file: Callable[[Path], object]) -> Make:
    def make(folder: Path) -> None:
        write_clip(folder / "a.mp4", seed=5)
        make_file(folder / "a.txt")

    return make


def folder_in_a_loop(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "up").symlink_to("..")
    (folder / "sub" / "down").symlink_to("../sub")


def linked_folder(folder: Path) -> None:
    clip("a.mp4")(folder.parent / "elsewhere")
    (folder / "linked").symlink_to(folder.parent / "elsewhere")


def same_name_twice(folder: Path) -> None:
    for number, name in enumerate(("one", "two"), start=5):
        clip("a.mp4", seed=number)(folder / name)


def name_not_utf8(folder: Path) -> None:
    for suffix in (b".mp4", b".txt"):
        (folder / os.fsdecode(b"bad\xff" + suffix)).write_text("a cat")


def mp4_folder(folder: Path) -> None:
    clip("b.mp4")(folder / "a.mp4")
    (folder / "a.txt").write_text("a caption for the folder")


FILES = [
    refused("empty", content(b""), "unreadable", "is empty"),
    refused("text", content("this is no video"), "unreadable", "cannot be read"),
    refused("zeros", content(bytes(10_000)), "unreadable", "cannot be read"),
    refused("cut short, index at the end", spoilt(cut(0.5)), "unreadable", "cannot be read"),
    refused(
        "cut short, index in front",
        spoilt(cut(0.6), faststart=True, frames=60),
        "unreadable",
        "cut short",
    ),
    refused(
        "matroska cut short",
        spoilt(cut(0.6), name="a.mkv", frames=60, options={"g": "60"}),
        "unreadable",
        "cut short",
        "a.mkv",
    ),
    refused("damaged in the middle", spoilt(lambda p: damage(p, frame=5)), "unreadable", ""),
    accepted(
        "mkv called mp4", spoilt(renamed("a.mp4"), name="a.mkv"), width=64, height=48, frames=24
    ),
    accepted("avi called mp4", spoilt(renamed("a.mp4"), name="a.avi", codec="mpeg4"), frames=24),
    refused("picture called mp4", beside(still_picture), "unreadable", "not one of mp4"),
    refused("gif called mp4", beside(animation), "unreadable", "not one of mp4"),
    refused("gif", beside(animation, "a.gif"), "missing", "no video is beside it", "a.txt"),
    refused("elementary stream", beside(without_times), "unreadable", "not one of mp4"),
    refused("playlist", content("#EXTM3U\n#EXTINF:3,\nzz-good.mp4\n"), "unreadable", ""),
    refused(
        "script that shows another file",
        content(f"ffconcat version 1.0\nfile {GOOD}\n"),
        "unreadable",
        "not one of mp4",
    ),
    refused("sound alone", beside(write_sound), "unreadable", "no video, only audio"),
    refused("1 frame", clip(frames=1), "too_short", "1 frames at 8 fps"),
    refused("2 frames", clip(frames=2), "too_short", "2 frames at 8 fps"),
    refused("4 fps", clip(fps=4), "too_slow", "slower than video.fps = 8"),
    refused("small", clip(height=46), "too_small", "46x64 does not cover 48x48"),
    accepted("120 fps", clip(fps=120, frames=240), fps=120.0, frames=240),
    accepted("odd sizes", clip(height=51, width=67, pixel_format="yuv444p"), height=51, width=67),
    accepted("10 bits", clip(pixel_format="yuv420p10le"), frames=24, codec="h264"),
    accepted("4:2:2", clip(pixel_format="yuv422p"), frames=24),
    accepted("4:4:4", clip(pixel_format="yuv444p"), frames=24),
    accepted("grey alone", clip(pixel_format="gray"), frames=24),
    accepted("hevc", clip(codec="libx265", height=64), codec="hevc", frames=24),
    accepted("vp9", clip("a.webm", codec="libvpx-vp9"), "a.webm", codec="vp9"),
    accepted("alpha", clip("a.mov", codec="qtrle", pixel_format="argb"), "a.mov", codec="qtrle"),
    accepted("interlaced", clip(options={"x264-params": "interlaced=1"}), frames=24),
    accepted(
        "uneven rate",
        clip(frames=24, times_ms=[50 * n + 20 * (n % 2) for n in range(24)]),
        frames=24,
    ),
    accepted("no times", clip("a.avi", codec="mpeg4"), "a.avi", frames=24, fps=8.0),
    refused("zero duration", spoilt(timeless), "unreadable", "has no frames"),
    accepted(
        "edit list", spoilt(lambda p: trim(p, first=4, frames=12, fps=8), frames=24), frames=12
    ),
    accepted(
        "turned for display", spoilt(lambda p: rotate_clockwise(p, height=48)), height=64, width=48
    ),
    refused("turned by 45 degrees", spoilt(tilted), "unreadable", "rotated by"),
    accepted("oblong pixels", clip(aspect=Fraction(3, 2)), height=48, width=96),
    accepted("portrait", clip(height=80, width=48), height=80, width=48),
    refused("panorama", clip(width=160), "aspect", "would keep 30% of its picture"),
    accepted(
        "huge",
        beside(
            lambda p: write_pictures(
                p, [grey(40 + 9 * n, 3000, 4000) for n in range(9)], preset="ultrafast"
            )
        ),
        height=3000,
        width=4000,
    ),
    refused(
        "larger than a recipe may ask", clip(width=8208, frames=9), "unreadable", "larger than"
    ),
    refused("picture that grows", beside(two_sizes), "unreadable", "from 48x64 to 96x64"),
    accepted("sound and texts beside the pictures", beside(with_texts_and_sound), frames=24),
    accepted("bytes after the end", spoilt(lambda p: p.open("ab").write(bytes(5000))), frames=24),
    refused(
        "black",
        beside(lambda p: write_pictures(p, [grey(n % 3) for n in range(12)])),
        "black",
        "below dataset.min_brightness = 6",
    ),
    refused(
        "still",
        beside(lambda p: write_pictures(p, [grey(90)] * 12)),
        "static",
        "less than dataset.min_motion = 0.1",
    ),
    refused("the same file", twin, "duplicate", f"same file as {GOOD}", "zzz.mp4"),
    refused("the same frames", same_frames, "same_frames", f"as {GOOD}", "zzz.mkv"),
    refused(
        "link to nothing",
        beside(lambda p: p.symlink_to("nowhere.mp4")),
        "missing",
        "link that leads to no file",
    ),
    refused(
        "link to itself",
        beside(lambda p: p.symlink_to("a.mp4")),
        "missing",
        "link that leads to no file",
    ),
    refused(
        "link to a file that is no video",
        beside(lambda p: p.symlink_to("/etc/passwd")),
        "unreadable",
        "cannot be read",
    ),
    refused("pipe", beside(os.mkfifo), "missing", "no file but a pipe"),
    refused("folder called mp4", mp4_folder, "missing", "no video is beside it", "a.txt"),
    accepted("clip in a folder called mp4", mp4_folder, "a.mp4/b.mp4", frames=24),
    accepted("linked file", linked_file, frames=24),
    accepted("linked folder", linked_folder, "linked/a.mp4", frames=24),
    Case("folders in a loop", folder_in_a_loop, None),
    accepted("the same name in two folders: one", same_name_twice, "one/a.mp4", frames=24),
    accepted("the same name in two folders: two", same_name_twice, "two/a.mp4", frames=24),
    accepted("unicode", clip("日本 🐕 é.mp4"), "日本 🐕 é.mp4", frames=24),
    accepted("spaces and quotes", clip(" a 'b' \"c\" .mp4"), " a 'b' \"c\" .mp4", frames=24),
    accepted("a line break in a name", clip("a\nb.mp4"), "a\nb.mp4", frames=24),
    accepted("very long name", clip(f"{LONG}.mp4"), f"{LONG}.mp4", frames=24),
    accepted("capitals", spoilt(renamed("A.MP4"), name="A.mp4"), "A.MP4", frames=24),
    refused("name that is not UTF-8", name_not_utf8, "unreadable", "not UTF-8", "bad\\udcff.mp4"),
]

CAPTIONS = [
    refused("no caption", captioned("", "b.txt"), "caption", "there is no a.txt beside it"),
    refused("empty caption", captioned(""), "caption", "is empty"),
    refused("caption of spaces", captioned(" \t\r\n \u3000"), "caption", "is empty"),
    refused("NUL in a caption", captioned("a\0cat"), "caption", "U+0000"),
    refused("caption that is not UTF-8", captioned(b"caf\xe9"), "caption", "not UTF-8"),
    refused("caption in UTF-16", captioned("a cat".encode("utf-16")), "caption", "not UTF-8"),
    refused("caption of 100 kB", captioned("a cat, " * 15_000), "caption", "more than 8000"),
    refused("caption of 2 MB", captioned("a cat, " * 300_000), "caption", "so it is no caption"),
    refused("caption that is a pipe", caption_that_is(os.mkfifo), "caption", "no file but a pipe"),
    refused(
        "caption that is a link to nothing",
        caption_that_is(lambda p: p.symlink_to("nowhere.txt")),
        "caption",
        "link that leads to no file",
    ),
    accepted("caption with a byte order mark", captioned(b"\xef\xbb\xbfa cat\r\n"), frames=24),
]

LISTED = [
    refused("traversal", rows(row("../a.mp4")), "outside", "line 1", "../a.mp4"),
    refused("traversal inside", rows(row("x/../../a.mp4")), "outside", "leaves", "x/../../a.mp4"),
    refused("absolute path", rows(row("/etc/a.mp4")), "outside", "leaves", "/etc/a.mp4"),
    refused("NUL in a path", rows(row("a\0.mp4")), "outside", "leaves", "a\0.mp4"),
    refused("path of Windows", rows(row("..\\a.mp4")), "missing", "no such file", "..\\a.mp4"),
    refused("address", rows(row("http://a/b.mp4")), "missing", "no such file", "http:/a/b.mp4"),
    refused("folder", rows(row("sub")), "missing", "no such file", "sub"),
    refused("the listing itself", rows(row("metadata.jsonl")), "unreadable", "", "metadata.jsonl"),
    refused("no caption", rows({"file_name": "a.mp4"}), "caption", "missing"),
    refused("caption of null", rows(row("a.mp4", None)), "caption", "missing"),
    refused("caption of a number", rows(row("a.mp4", 7)), "caption", "no text but a int"),
    refused("nested caption", rows(row("a.mp4", {"en": "a cat"})), "caption", "but a dict"),
    refused("half a surrogate pair", rows(row("a.mp4", "\ud800")), "caption", "U+D800"),
    refused("clip that no line names", rows(), "caption", "does not name it"),
    accepted("path with a dot", rows(row("./a.mp4")), frames=24),
    accepted("CRLF and blank lines", rows(json.dumps(row("a.mp4")) + "\r\n\r"), frames=24),
    accepted(
        "CSV with a byte order mark",
        listed("metadata.csv", f"\ufefffile_name,text\r\na.mp4,a cat\r\n{GOOD},a dog\r\n"),
        frames=24,
    ),
    accepted(
        "CSV with quoted line breaks",
        listed("metadata.csv", f'text,file_name\n"a ""big""\ncat, asleep",a.mp4\na dog,{GOOD}\n'),
        frames=24,
    ),
    refused(
        "CSV with a cell of 200 kB",
        listed("metadata.csv", f"file_name,text\na.mp4,{'a cat ' * 35_000}\n{GOOD},a dog\n"),
        "caption",
        "more than 8000",
    ),
]

STOPPED = [
    ("two captions in one line", rows('{"file_name": "a.mp4", "text": "a", "text": "b"}'),
     r'line 1 is not JSON: it has "text" twice'),
    ("nested without end", rows(DEEP), "line 1 is not JSON"),
    ("torn line", rows('{"file_name": "a.mp4", "te'), "line 1 is not JSON"),
    ("NUL", rows("\0"), "NUL bytes"),
    ("not UTF-8", listed("metadata.jsonl", b'{"file_name": "caf\xe9.mp4"}'), "not UTF-8"),
    ("two columns of captions", listed("metadata.csv", f"file_name,text,text\n{GOOD},a,b\n"),
     "two columns text"),
    ("open quotes", listed("metadata.csv", f'file_name,text\n{GOOD},"a\n'), "is not CSV"),
]  # fmt: skip


@pytest.fixture(scope="module")
def good_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("good") / GOOD)


def survey(folder: Path, work: Path) -> Manifest:
    store = LocalStore(folder)
    return ingest(
        store,
        config=DatasetConfig(uri="clips", min_heldout=0, heldout_share=0, max_rejected_share=1),
        video=VIDEO,
        ledger=Ledger.load(MemoryStore(), store.url),
        work=work,
        on_progress=lambda _done, _total: None,
        count_tokens=len,
    )


def tree(root: Path) -> dict[str, str]:
    """Every name below a folder, with what stands there."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[str(path)] = f"link to {path.readlink()}"
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[str(path)] = "folder or pipe"
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good_clip: Path) -> Path:
    """A dataset with the good clip; the working directory is a folder that must stay empty."""
    clips = tmp_path / "clips"
    for name in ("clips", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shutil.copyfile(good_clip, clips / GOOD)
    return clips


def require(case: Case, manifest: Manifest) -> None:
    found = {item.key: item for item in manifest.clips}
    faults = {item.key: item for item in manifest.rejected}
    assert GOOD in found
    assert len(found) + len(faults) == len({*found, *faults})
    if case.key is None:
        assert list(found) == [GOOD]
        assert faults == {}
    elif case.reason is None:
        assert case.key in found, faults
        facts = found[case.key].facts.model_dump()
        assert {name: facts[name] for name in case.facts} == case.facts
        assert facts["look"] is not None
    else:
        assert case.key in faults, list(found)
        fault = faults[case.key]
        assert (fault.reason, case.says in fault.detail) == (case.reason, True), fault.detail
        assert "\n" not in fault.detail
        assert 0 < len(fault.detail) < 250


@pytest.mark.parametrize("case", [*FILES, *CAPTIONS], ids=lambda case: case.name)
def test_a_hostile_file_is_accepted_rightly_or_set_aside(
    case: Case, folder: Path, tmp_path: Path
) -> None:
    (folder / GOOD).with_suffix(".txt").write_text("a good clip")
    case.make(folder)
    before = tree(tmp_path)
    require(case, survey(folder, tmp_path / "work"))
    (tmp_path / "work").rmdir()  # only an empty folder can be removed so
    assert tree(tmp_path) == before


@pytest.mark.parametrize("case", LISTED, ids=lambda case: case.name)
def test_a_hostile_line_is_accepted_rightly_or_set_aside(
    case: Case, folder: Path, tmp_path: Path
) -> None:
    case.make(folder)
    before = tree(tmp_path)
    require(case, survey(folder, tmp_path / "work"))
    (tmp_path / "work").rmdir()
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("make", "says"), [case[1:] for case in STOPPED], ids=[c[0] for c in STOPPED]
)
def test_a_listing_that_cannot_be_read_stops_with_one_sentence(
    make: Make, says: str, folder: Path, tmp_path: Path
) -> None:
    make(folder)
    before = tree(tmp_path)
    with pytest.raises(DataError, match=says) as caught:
        survey(folder, tmp_path / "work")
    assert "\n" not in str(caught.value)
    assert tree(tmp_path) == before


def test_the_table_is_as_long_as_it_promises() -> None:
    assert len(FILES) + len(CAPTIONS) + len(LISTED) + len(STOPPED) >= 100
