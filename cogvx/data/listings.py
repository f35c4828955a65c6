"""The documents that list clips and captions: JSON lines, CSV, and aligned lines of text.

A document that cannot be read is one error; what is wrong with a single clip is left to the caller.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

from cogvx.errors import DataError

FILE_COLUMN = "file_name"
CAPTION_COLUMN = "text"


@dataclass(frozen=True)
class Row:
    """One clip as a document lists it: where, which file, and whatever stands for its caption."""

    line: int
    name: str
    caption: object


def read_text(data: bytes, name: str) -> str:
    """Decode a document, with or without a byte order mark; lines end in a newline alone.

    Raises:
        DataError: It is not UTF-8 text.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02x} at position {error.start}"
        raise DataError(f"{name} is not UTF-8 ({found}); save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_jsonl(data: bytes, name: str) -> list[Row]:
    """Rows of a metadata.jsonl: an object with `file_name` and `text` on each line.

    Raises:
        DataError: A line is no such object, or no line has a caption.
    """
    entries: list[tuple[int, dict[str, object]]] = []
    for line, text in enumerate(_require_plain(read_text(data, name), name).split("\n"), start=1):
        if text.strip():
            entries.append((line, _json_object(text, f"{name} line {line}")))
    columns = dict.fromkeys(column for _, entry in entries for column in entry)
    _require_columns(tuple(columns), name)
    rows = []
    for line, entry in entries:
        file_name = entry.get(FILE_COLUMN)
        if not isinstance(file_name, str) or not file_name.strip():
            raise DataError(f'{name} line {line} names no file; use "{FILE_COLUMN}": "clip.mp4"')
        rows.append(Row(line, file_name.strip(), entry.get(CAPTION_COLUMN)))
    return rows


def read_csv(data: bytes, name: str) -> list[Row]:
    """Rows of a metadata.csv with the columns `file_name` and `text`.

    Raises:
        DataError: It is no such table, or a row has more cells than the header.
    """
    text = _require_plain(read_text(data, name), name)
    # For the whole process; a longer cell is a caption to set aside, not a table to refuse.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    try:
        header = [cell.strip() for cell in next(reader, [])]
        _require_columns(tuple(header), name)
        file_cell, caption_cell = header.index(FILE_COLUMN), header.index(CAPTION_COLUMN)
        for cells in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(header):
                raise DataError(
                    f"{name} line {line} has {len(cells)} cells under {len(header)} columns;"
                    " put captions that hold commas in double quotes"
                )
            padded: Sequence[str | None] = [*cells, *[None] * (len(header) - len(cells))]
            file_name = padded[file_cell]
            if file_name is None or not file_name.strip():
                raise DataError(f"{name} line {line} names no file under {FILE_COLUMN}")
            rows.append(Row(line, file_name.strip(), padded[caption_cell]))
    except csv.Error as error:
        raise DataError(f"{name} line {reader.line_num} is not CSV: {error}") from error
    return rows


def read_aligned(prompts: bytes, videos: bytes) -> list[Row]:
    """Rows of a prompts.txt and a videos.txt: the same line number is the same clip.

    Raises:
        DataError: The line counts differ, or a line of videos.txt is empty.
    """
    names = _require_plain(read_text(videos, "videos.txt"), "videos.txt").rstrip().split("\n")
    captions = read_text(prompts, "prompts.txt").split("\n")
    while len(captions) > len(names) and not captions[-1].strip():
        captions.pop()
    if len(captions) != len(names):
        raise DataError(
            f"prompts.txt has {len(captions)} lines and videos.txt has {len(names)};"
            " line n of the one must describe line n of the other"
        )
    for line, file_name in enumerate(names, start=1):
        if not file_name.strip():
            raise DataError(f"videos.txt line {line} is empty; remove it from both files")
    return [
        Row(line, file_name.strip(), caption)
        for line, (file_name, caption) in enumerate(zip(names, captions, strict=True), start=1)
    ]


def _require_plain(text: str, name: str) -> str:
    if "\0" in text:
        raise DataError(f"{name} holds NUL bytes, so it is no text; save it as UTF-8")
    return text


def _json_object(text: str, where: str) -> dict[str, object]:
    try:
        entry = json.loads(text, object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise DataError(f'{where} is not an object; use {{"file_name": "...", "text": "..."}}')
    return entry


def _unrepeated(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'it has "{twice}" twice')
    return entry


def _require_columns(columns: Sequence[str], name: str) -> None:
    missing = [column for column in (FILE_COLUMN, CAPTION_COLUMN) if column not in columns]
    if missing:
        found = ", ".join(columns) or "nothing"
        raise DataError(f"{name} has no {' and no '.join(missing)}, but {found}; rename or add it")
    twice = [column for column in (FILE_COLUMN, CAPTION_COLUMN) if columns.count(column) > 1]
    if twice:
        raise DataError(f"{name} has two columns {twice[0]}; remove or rename one")
