"""What a person should look at in a dataset, in sentences, and how its numbers moved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cogvx.data.manifest import Manifest
from cogvx.data.statistics import DatasetStatistics
from cogvx.data.windows import unmirrored
from cogvx.recipe_sections import VideoConfig

# From fewer held-out clips there is no spread to tell luck from progress.
_FEWEST_HELDOUT = 2


@dataclass(frozen=True)
class Remark:
    """A sentence, and the section of the page that shows more."""

    text: str
    section: str


def remarks(
    numbers: DatasetStatistics,
    *,
    manifest: Manifest,
    video: VideoConfig,
    meagre: int,
    repeated: Sequence[int],
) -> list[Remark]:
    """What stands out; an empty list means that nothing does.

    Args:
        numbers: Of the manifest.
        manifest: What is looked at.
        video: The sizes that were asked for.
        meagre: How many captions have one or two words.
        repeated: For each caption that is shared, how many clips share it.
    """
    rejected = sum(numbers.rejected.values())
    empty = [str(size) for size in video.sizes if str(size) not in _used(numbers)]
    passed = unmirrored(manifest.clips) if video.flip else 0
    limit = f"{numbers.token_limit} tokens"
    found = [
        (rejected, f"{clips_were(rejected)} rejected: {_by_reason(numbers)}.", "rejected"),
        (
            numbers.heldout.clips < _FEWEST_HELDOUT,
            f"{clips_were(numbers.heldout.clips)} held out, too few to tell luck from progress.",
            "measures",
        ),
        (
            numbers.too_long,
            f"{_captions(numbers.too_long)} longer than the {limit} that the model reads.",
            "captions",
        ),
        (meagre, f"{_captions(meagre)} only one or two words long.", "captions"),
        (
            len(repeated),
            f"{sum(repeated):,} clips share {len(repeated):,} caption{_s(len(repeated))}.",
            "captions",
        ),
        (passed, f"{clips_were(passed)} not mirrored, as the caption names a side.", "captions"),
        (len(empty), f"No clip suits the size{_s(len(empty))} {', '.join(empty)}.", "sizes"),
    ]
    return [Remark(text, section) for holds, text, section in found if holds]


def movements(
    now: DatasetStatistics, columns: Sequence[DatasetStatistics]
) -> list[tuple[str, list[str]]]:
    """Rows of a table: a name, the number now, and for each column the number then."""
    rows: list[tuple[str, Callable[[DatasetStatistics], float | None], Callable[[float], str]]] = [
        ("clips", lambda n: n.all.clips, _whole),
        ("windows", lambda n: n.all.windows, _whole),
        ("footage used", lambda n: n.all.seconds, duration),
        ("clips held out", lambda n: n.heldout.clips, _whole),
        ("clips rejected", lambda n: sum(n.rejected.values()), _whole),
        ("caption tokens, median", lambda n: n.tokens.median if n.tokens else None, _short),
        ("captions too long", lambda n: n.too_long if n.tokens else None, _whole),
        ("motion, median", lambda n: n.motion.median if n.motion else None, _short),
        ("brightness, median", lambda n: n.brightness.median if n.brightness else None, _short),
    ]
    sizes = dict.fromkeys(bucket.size for column in (now, *columns) for bucket in column.buckets)
    rows += [(f"windows of {size}", _windows_of(size), _whole) for size in sizes]
    table = []
    for name, value, write in rows:
        present = value(now)
        cells = [_cell(present, value(column), write) for column in columns]
        table.append((name, ["" if present is None else write(present), *cells]))
    return table


def duration(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def clips_were(count: int) -> str:
    """The beginning of a sentence about so many clips."""
    return f"{count:,} clip{' was' if count == 1 else 's were'}"


def _captions(count: int) -> str:
    return f"{count:,} caption{' is' if count == 1 else 's are'}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _by_reason(numbers: DatasetStatistics) -> str:
    ordered = sorted(numbers.rejected.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {reason}" for reason, count in ordered)


def _used(numbers: DatasetStatistics) -> set[str]:
    return {bucket.size for bucket in numbers.buckets}


def _windows_of(size: str) -> Callable[[DatasetStatistics], float]:
    return lambda numbers: sum(b.windows for b in numbers.buckets if b.size == size)


def _cell(now: float | None, then: float | None, write: Callable[[float], str]) -> str:
    """The number then, and the way from it."""
    if then is None:
        return ""
    if now is None or now == then:
        return write(then)
    sign = "+" if now > then else "−"
    return f"{write(then)} ({sign}{write(abs(now - then))})"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _short(value: float) -> str:
    return f"{value:.3g}"
