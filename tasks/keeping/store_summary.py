"""What housekeeping prints, as pairs of a short name and a fact."""

import math
from datetime import UTC, datetime

from cogvx.housekeeping.stats import DiskCache, KindFacts, StoreStats
from tasks.keeping.housekeeping_documents import Group, PruneReport, VerifyReport
from tasks.retraining.summary import Row

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def stats_rows(found: StoreStats) -> list[Row]:
    """What there is, what made it, who needs it, what a recipe lacks."""
    rows = [(one.kind, _kind(one)) for one in found.kinds]
    made = [("made", f"{count:,} latents {label}") for label, count in found.made.items()]
    needed = [
        ("needed", f"{root.present:,} of {root.wanted:,} objects: {root.name}")
        for root in found.roots
    ]
    unneeded = [("unneeded", f"{found.unneeded_objects:,} objects, {_size(found.unneeded_bytes)}")]
    recipe = [("recipe", f"{one.present:,} of {one.wanted:,} {one.kind}") for one in found.recipe]
    disk = [] if found.disk is None else [("on disk", _disk(found.disk))]
    return [*rows, *made, *needed, *unneeded, *recipe, *disk, *(("note", n) for n in found.notes)]


def verify_rows(found: VerifyReport) -> list[Row]:
    """How much was read, what is missing, each damaged record with its clip."""
    rows = [("verified", f"{found.verified:,} records, {_size(found.bytes)}")]
    if found.missing:
        rows.append(("missing", f"{found.missing:,} records: run `cogvx cache` to make them"))
    rows += [("damaged", f"{one.key} of {one.of}: {one.why}") for one in found.damaged]
    return rows if found.damaged else [*rows, ("damaged", "none")]


def prune_rows(found: PruneReport) -> list[Row]:
    """Why what stays stays, what goes, and how much that is."""
    verb = "removed" if found.applied else "may go"
    total = f"{found.objects:,} objects, {_size(found.bytes)}"
    end = ("freed", total) if found.applied else ("in all", f"{total}; nothing was removed")
    hint = [] if found.applied or not found.objects else [("next", "--apply removes them")]
    stays = [("stays", _group(one)) for one in found.stays]
    return [*stays, *((verb, _group(one)) for one in found.goes), end, *hint]


def _kind(one: KindFacts) -> str:
    when = f"from {_when(one.oldest)} to {_when(one.newest)}"
    return f"{one.objects:,} objects, {_size(one.bytes)}, {when}"


def _disk(one: DiskCache) -> str:
    return f"{one.objects:,} copies, {_size(one.bytes)} of at most {_size(one.limit)}: {one.folder}"


def _group(one: Group) -> str:
    return f"{one.objects:,} objects, {_size(one.bytes)}: {one.name}"


def _size(count: int) -> str:
    """Bytes as people read them."""
    power = min(len(_UNITS) - 1, int(math.log(count, 1024))) if count else 0
    return f"{count / 1024**power:.{1 if power else 0}f} {_UNITS[power]}"


def _when(seconds: float) -> str:
    if math.isinf(seconds):
        return "an unknown time"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
