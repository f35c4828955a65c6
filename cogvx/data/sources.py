"""Finding clips and their captions below a dataset's root, in one of three forms.

    videofolder   metadata.jsonl or metadata.csv with the columns file_name and text
    CogVideo      prompts.txt and videos.txt, line by line
    sidecars      every video, at any depth, beside a .txt of the same name

The form is told by which files are there. A clip that cannot be used is never left out: it comes
with its fault.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from cogvx.data.captions import caption_fault, normalise_caption
from cogvx.data.ledger import Ledger, ReadText
from cogvx.data.listings import Row, read_aligned, read_csv, read_jsonl, read_text
from cogvx.data.manifest import Fault
from cogvx.errors import DataError, IntegrityError
from cogvx.store import ObjectInfo, ObjectStore, check_key

# No .gif: 256 colours and hundredths of a second are nothing to learn from.
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
FORMS = (
    "a .txt of the same name beside each video, or metadata.jsonl or metadata.csv with file_name"
    " and text, or prompts.txt and videos.txt"
)

_TABLES = {"metadata.jsonl": read_jsonl, "metadata.csv": read_csv}
_LISTS = ("prompts.txt", "videos.txt")
# Texts that lie in a folder of clips without describing one.
_NOT_CAPTIONS = ("readme", "license", "licence")
_READERS = 16
# The longest caption has 8000 characters of at most four bytes; beyond this nothing is read.
_MAX_TEXT_BYTES = 1 << 20

Files = Mapping[str, ObjectInfo]


@dataclass(frozen=True)
class ClipFiles:
    """The files that decide what a dataset's clips are: videos, and what may caption them."""

    videos: tuple[ObjectInfo, ...]
    texts: tuple[ObjectInfo, ...]


@dataclass(frozen=True)
class CaptionedClip:
    """A clip that a dataset names: its normalised caption, or the fault that rules it out.

    `info` is None where there is no such file.
    """

    key: str
    caption: str | None = None
    fault: Fault | None = None
    info: ObjectInfo | None = None


def list_files(dataset: ObjectStore) -> ClipFiles:
    """What `find_clips` would read, without reading any of it; may be nothing at all.

    Files of other kinds, and hidden ones, as of uploads that are under way, are left out.

    Raises:
        DataError: A folder may not be listed.
        TransientError: The store did not answer this time.
    """
    files = {info.key: info for info in dataset.entries() if not _is_hidden(info.key)}
    videos = [key for key in files if key.lower().endswith(VIDEO_SUFFIXES)]
    used = set(_sidecars(files, videos).values())
    texts = [key for key in files if key in used or key in _TABLES or _is_caption(key)]
    return ClipFiles(tuple(files[key] for key in videos), tuple(files[key] for key in texts))


def find_clips(dataset: ObjectStore, ledger: Ledger | None = None) -> list[CaptionedClip]:
    """All clips of a dataset, in the order of their keys, usable or not.

    Hidden files are none of the dataset's. Captions beside the clips that the ledger knows, by key,
    size and stamp, are not read again; those that are new to it are remembered there.

    Raises:
        DataError: There are no videos, no captions, captions in two forms, or a document of them
            cannot be read.
        IntegrityError: The document that lists the clips vanished, or is no file.
        TransientError: The store did not answer this time.
    """
    files = {info.key: info for info in dataset.entries() if not _is_hidden(info.key)}
    videos = [key for key in files if key.lower().endswith(VIDEO_SUFFIXES)]
    if not videos:
        suffixes = " ".join(suffix.removeprefix(".") for suffix in VIDEO_SUFFIXES)
        raise DataError(
            f"{dataset.url} does not exist or holds no videos ({suffixes}); put captioned clips"
            f" there: {FORMS}"
        )
    captions = _sidecars(files, videos)
    document = _document(dataset, files, captions)
    if document is None:
        texts = _read_sidecars(dataset, files, captions, ledger)
        found = list(_with_sidecars(files, videos, captions, texts))
    else:
        try:
            found = list(_listed(_rows(dataset, document), files, videos, document))
        except DataError as error:
            raise DataError(f"{dataset.url}: {error}") from error
        if ledger:
            _note_document(ledger, files, (document,) if document in _TABLES else _LISTS)
    return sorted(found, key=lambda clip: clip.key)


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))


def _sidecars(files: Files, videos: Sequence[str]) -> dict[str, str]:
    """The .txt that describes each video that has one."""
    texts = {_stem(key): key for key in files if key.lower().endswith(".txt")}
    return {key: texts[_stem(key)] for key in videos if _stem(key) in texts}


def _is_caption(key: str) -> bool:
    """Whether a text seems meant as one, be there a video beside it or not."""
    return key.lower().endswith(".txt") and _name(_stem(key)).lower() not in _NOT_CAPTIONS


def _stem(key: str) -> str:
    """The key up to the last dot of its name."""
    return key.rpartition(".")[0]


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _document(dataset: ObjectStore, files: Files, sidecars: Mapping[str, str]) -> str | None:
    """The one document that lists the clips ("videos.txt" for the pair), or None for sidecars."""
    beside = list(sidecars.values())
    tables = [name for name in _TABLES if name in files]
    lists = [name for name in _LISTS if name in files and name not in beside]
    claims = [*tables, *lists[-1:], *beside[:1]]
    if len(claims) > 1:
        raise DataError(
            f"{dataset.url} holds captions in two forms: {claims[0]} and {claims[1]}; keep one"
        )
    if len(lists) == 1:
        other = next(name for name in _LISTS if name not in lists)
        raise DataError(f"{dataset.url} holds {lists[0]} without {other}; add it, line by line")
    if not claims:
        raise DataError(f"{dataset.url} holds videos but no captions; add {FORMS}")
    return None if beside else claims[0]


def _rows(dataset: ObjectStore, document: str) -> list[Row]:
    if document in _TABLES:
        return _TABLES[document](dataset.read(document), document)
    prompts, videos = (dataset.read(name) for name in _LISTS)
    return read_aligned(prompts, videos)


def _note_document(ledger: Ledger, files: Files, names: Sequence[str]) -> None:
    """Have the ledger know what lists the clips, so that a watcher finds nothing new in it."""
    for name in names:
        if ledger.known_text(files[name]) is None:
            stands = {"size": files[name].size, "stamp": files[name].stamp}
            fault = Fault(reason="caption", detail=f"{name} lists the clips")
            ledger.remember_text(name, ReadText(**stands, caption=None, fault=fault))
    ledger.forget_other_texts(names)


def _listed(
    rows: Sequence[Row], files: Files, videos: Sequence[str], document: str
) -> Iterator[CaptionedClip]:
    first_lines: dict[str, int] = {}
    for row in rows:
        key, fault = _key_of(row, document)
        if fault is None and key in first_lines:
            detail = f"{document} names it in line {first_lines[key]} and again in line {row.line}"
            fault = Fault(reason="duplicate", detail=detail)
        elif fault is None:
            first_lines[key] = row.line
            if key not in files:
                detail = f"{document} line {row.line} names it, but there is no such file"
                fault = Fault(reason="missing", detail=detail)
        yield _clip(key, fault or _judged(row.caption), files)
    for key in videos:
        if key not in first_lines:
            unnamed = Fault(reason="caption", detail=f"{document} does not name it")
            yield _clip(key, unnamed, files)


def _key_of(row: Row, document: str) -> tuple[str, Fault | None]:
    try:
        return check_key(row.name), None
    except DataError as error:
        return row.name, Fault(reason="outside", detail=f"{document} line {row.line}: {error}")


def _read_sidecars(
    dataset: ObjectStore, files: Files, sidecars: Mapping[str, str], ledger: Ledger | None
) -> dict[str, str | Fault]:
    """The caption, or what is wrong with it, in every text that describes a video."""
    used = {key: files[key] for key in sorted(set(sidecars.values()))}
    found: dict[str, ReadText | Fault] = {}
    for key, info in used.items():
        known = ledger.known_text(info) if ledger else None
        if known is not None:
            found[key] = known
    unread = [info for key, info in used.items() if key not in found]
    with ThreadPoolExecutor(_READERS) as pool:
        for info, text in zip(unread, pool.map(partial(_read, dataset), unread), strict=True):
            found[info.key] = text
            if ledger and isinstance(text, ReadText):
                ledger.remember_text(info.key, text)
    if ledger:
        ledger.forget_other_texts(used)
    return {key: text if isinstance(text, Fault) else _said(text) for key, text in found.items()}


def _said(text: ReadText) -> str | Fault:
    return text.fault or text.caption or ""


def _read(dataset: ObjectStore, info: ObjectInfo) -> ReadText | Fault:
    """What a text says, for good; or a fault of this moment."""
    stands = {"size": info.size, "stamp": info.stamp}
    if info.size > _MAX_TEXT_BYTES:
        detail = f"{info.key} has {info.size} bytes, so it is no caption"
        return ReadText(**stands, caption=None, fault=Fault(reason="caption", detail=detail))
    try:
        data = dataset.read(info.key)
    except IntegrityError as error:
        return Fault(reason="caption", detail=str(error))
    try:
        judged = _judged(read_text(data, info.key))
    except DataError as error:
        judged = Fault(reason="caption", detail=str(error))
    if isinstance(judged, Fault):
        return ReadText(**stands, caption=None, fault=judged)
    return ReadText(**stands, caption=judged)


def _with_sidecars(
    files: Files,
    videos: Sequence[str],
    sidecars: Mapping[str, str],
    texts: Mapping[str, str | Fault],
) -> Iterator[CaptionedClip]:
    for key in videos:
        if key in sidecars:
            yield _clip(key, texts[sidecars[key]], files)
        else:
            name = f"{_name(_stem(key))}.txt"
            absent = Fault(reason="caption", detail=f"there is no {name} beside it")
            yield _clip(key, absent, files)
    for key in files:
        if key not in texts and _is_caption(key):
            yield _clip(key, Fault(reason="missing", detail="no video is beside it"), {})


def _judged(caption: object) -> str | Fault:
    return caption_fault(caption) or normalise_caption(str(caption))


def _clip(key: str, caption: str | Fault, files: Files) -> CaptionedClip:
    printable = key.encode("utf-8", "backslashreplace").decode()
    if isinstance(caption, str) and printable != key:
        caption = Fault(reason="unreadable", detail="its name is not UTF-8; rename it")
    if isinstance(caption, Fault):
        return CaptionedClip(printable, None, caption, files.get(key))
    return CaptionedClip(key, caption, None, files[key])
