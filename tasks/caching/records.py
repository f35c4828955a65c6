"""Records on their way from the store to a stage that reads them."""

import logging
from collections.abc import Mapping
from pathlib import Path

from cogvx.cache.materialise import UnusableRecords, drop_damaged, materialise
from cogvx.errors import IntegrityError
from tasks.clients.stores import kept_on_disk
from tasks.pages.progress import Progress
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)


class RecordsLost(IntegrityError):  # noqa: N818 - says what happened
    """Records were absent or damaged; now all of them are absent, so caching makes them again."""


class VideosLost(IntegrityError):  # noqa: N818 - says what happened
    """Videos were damaged; now they are absent, so evaluating again renders them again."""


def bring_records(bench: Workbench, names: Mapping[str, str], folder: Path, *, what: str) -> None:
    """Make `folder` hold verified records; a record that is damaged in the store is deleted there.

    Args:
        bench: Its store has the records; copies of a remote one's stay on this machine's disk.
        names: Where each record lies in the store, by the record's name.
        folder: As `materialise` fills it.
        what: Names the progress.

    Raises:
        RecordsLost: Some could not be had. Caching again encodes them, and then they can.
        TransientError: The store did not answer this time.
    """
    store = kept_on_disk(bench.store, bench.settings)
    try:
        materialise(names, store, folder, on_progress=Progress(what, "records", logger))
    except UnusableRecords as error:
        dropped = drop_damaged(bench.store, error.paths)
        raise RecordsLost(
            f"{error}\n{len(dropped)} damaged ones were deleted; `cogvx cache run` encodes again "
            "what is absent, and `cogvx retrain` does that by itself"
        ) from error
