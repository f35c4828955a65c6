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
from pathlib import PurePosixPath

from cogvx.data.captions import caption_fault, normalise_caption
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

Files = Mapping[str, ObjectInfo]


@dataclass(frozen=True)
class CaptionedClip:
    """A clip that a dataset names: its normalised caption, or the fault that rules it out.

    `info` is None where there is no such file.
    """

    key: str
    caption: str | None = None
    fault: Fault | None = None
    info: ObjectInfo | None = None


def find_clips(dataset: ObjectStore) -> list[CaptionedClip]:
    """All clips of a dataset, in the order of their keys, usable or not.

    Hidden files are none of the dataset's.

    Raises:
        DataError: There are no videos, no captions, captions in two forms, or a document of them
            cannot be read.
        IntegrityError: The document that lists the clips vanished, or is no file.
        TransientError: The store did not answer this time.
    """
    files = {info.key: info for info in dataset.entries() if not _is_hidden(info.key)}
    videos = [key for key in files if PurePosixPath(key).suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        suffixes = " ".join(suffix.removeprefix(".") for suffix in VIDEO_SUFFIXES)
        raise DataError(
            f"{dataset.url} does not exist or holds no videos ({suffixes}); put captioned clips"
            f" there: {FORMS}"
        )
    captions = _sidecars(files, videos)
    document = _document(dataset, files, captions)
    if document is None:
        found = list(_with_sidecars(dataset, files, videos, captions))
    else:
        try:
            found = list(_listed(_rows(dataset, document), files, videos, document))
        except DataError as error:
            raise DataError(f"{dataset.url}: {error}") from error
    return sorted(found, key=lambda clip: clip.key)


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))


def _sidecars(files: Files, videos: Sequence[str]) -> dict[str, str]:
    """The .txt that describes each video that has one."""
    texts = {_stem(key): key for key in files if key.lower().endswith(".txt")}
    return {key: texts[_stem(key)] for key in videos if _stem(key) in texts}


def _stem(key: str) -> str:
    return str(PurePosixPath(key).with_suffix(""))


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
        yield _clip(key, row.caption, fault, files)
    for key in videos:
        if key not in first_lines:
            unnamed = Fault(reason="caption", detail=f"{document} does not name it")
            yield _clip(key, None, unnamed, files)


def _key_of(row: Row, document: str) -> tuple[str, Fault | None]:
    try:
        return check_key(row.name), None
    except DataError as error:
        return row.name, Fault(reason="outside", detail=f"{document} line {row.line}: {error}")


def _with_sidecars(
    dataset: ObjectStore, files: Files, videos: Sequence[str], sidecars: Mapping[str, str]
) -> Iterator[CaptionedClip]:
    used = sorted(set(sidecars.values()))
    with ThreadPoolExecutor(_READERS) as pool:
        read = pool.map(lambda key: _caption_in(dataset, key), used)
        texts = dict(zip(used, read, strict=True))
    for key in videos:
        if key not in sidecars:
            name = PurePosixPath(_stem(key)).name + ".txt"
            absent = Fault(reason="caption", detail=f"there is no {name} beside it")
            yield _clip(key, None, absent, files)
            continue
        caption = texts[sidecars[key]]
        fault = caption if isinstance(caption, Fault) else None
        yield _clip(key, caption, fault, files)
    for key in files:
        is_text = key.lower().endswith(".txt") and key not in texts
        if is_text and PurePosixPath(key).stem.lower() not in _NOT_CAPTIONS:
            yield _clip(key, None, Fault(reason="missing", detail="no video is beside it"), {})


def _caption_in(dataset: ObjectStore, key: str) -> str | Fault:
    try:
        return read_text(dataset.read(key), key)
    except (DataError, IntegrityError) as error:
        return Fault(reason="caption", detail=str(error))


def _clip(key: str, caption: object, fault: Fault | None, files: Files) -> CaptionedClip:
    printable = key.encode("utf-8", "backslashreplace").decode()
    if fault is None and printable != key:
        fault = Fault(reason="unreadable", detail="its name is not UTF-8; rename it")
    fault = fault or caption_fault(caption)
    if fault is not None:
        return CaptionedClip(printable, None, fault, files.get(key))
    return CaptionedClip(key, normalise_caption(str(caption)), None, files[key])
