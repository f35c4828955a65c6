"""Look whether a dataset's clips changed, by their listing alone; announce it once they rest."""

import logging
import time
from dataclasses import dataclass

from cogvx.data.arrivals import Announcements, Arrival, Listing
from cogvx.data.ledger import Ledger
from cogvx.data.sources import ClipFiles, list_files
from cogvx.errors import DataError
from cogvx.recipe import Recipe
from cogvx.store import ObjectStore
from tasks.caching.arrivals import announce, dataset_resource
from tasks.clients.stores import open_record_store, open_store
from tasks.documents import WatchReport
from tasks.settings import settings

logger = logging.getLogger(__name__)

# Whoever found a change announces it within seconds, or was killed.
_SENT_WITHIN_SECONDS = 60.0


@dataclass(frozen=True)
class _Look:
    """A listing, and whether it was the same in two looks."""

    listing: Listing
    settled: bool


def watch_clips(recipe: Recipe, *, settle_seconds: float, patience_seconds: float) -> WatchReport:
    """Announce the clips if they changed since the last time, once they have come to rest.

    At the first look, clips that a survey has seen just so are none that arrived. Nothing is read
    but the listing: a file that was touched counts as changed, and the retraining that it starts
    finds in seconds that nothing is new.

    Args:
        recipe: Only its dataset is looked at.
        settle_seconds: Between two looks that must agree.
        patience_seconds: After so long a change is announced although uploads go on; what they
            bring later is the next change.

    Raises:
        DataError: All clips are gone, as where a disk is not mounted.
        IntegrityError: What was announced cannot be read.
        TransientError: A store or Prefect's server did not answer this time.
    """
    here = settings()
    store, uri = open_record_store(here), recipe.dataset.uri
    dataset = open_store(uri, here)
    # Told apart by spelling as well: an event reaches those who wait for that spelling alone.
    announcements = Announcements(store, f"{dataset.url} as {dataset_resource(uri)}")
    before = announcements.newest()
    if before is not None:
        _send_forgotten(announcements, uri, before)
    there = _look(dataset, before)
    now = Listing.of(there)
    if (
        before is None
        and now.files
        and Ledger.load(store, dataset.url).is_of(there.videos, there.texts)
    ):
        return _remember(announcements, uri, now)
    known = {} if before is None else before.files
    if now.files == known:
        return _report("unchanged" if known else "empty", uri, now)
    found = _settle(dataset, before, now, settle=settle_seconds, patience=patience_seconds)
    if found.listing.files == known:
        return _report("unchanged" if known else "empty", uri, found.listing)
    arrival = announcements.claim(before, found.listing, settled=found.settled)
    if arrival is None:
        logger.info("another watcher has just found this change and announces it")
        return _report("announced elsewhere", uri, found.listing)
    announce(uri, arrival)
    announcements.note_sent(arrival)
    logger.info(
        "%s: %d file(s) new, %d gone, %d changed; announced%s",
        uri,
        arrival.added,
        arrival.removed,
        arrival.changed,
        "" if arrival.settled else f", though they still changed after {patience_seconds:.0f} s",
    )
    return _report("announced", uri, found.listing, arrival)


def _send_forgotten(announcements: Announcements, uri: str, arrival: Arrival) -> None:
    """Announce what a watcher found that was killed before it could say so."""
    is_late = time.time() - arrival.when > _SENT_WITHIN_SECONDS
    if is_late and not announcements.is_sent(arrival):
        logger.warning("the last change of %s was found and not announced; it is now", uri)
        announce(uri, arrival, again=True)
        announcements.note_sent(arrival)


def _look(dataset: ObjectStore, before: Arrival | None) -> ClipFiles:
    """The files, or none at all while no video is there, whatever else is."""
    found = list_files(dataset)
    if found.videos:
        return found
    if before is not None and before.files:
        raise DataError(
            f"{dataset.url} held {len(before.files)} files and holds no videos any more; mount or "
            "restore it, or pause this watch"
        )
    return ClipFiles((), ())


def _remember(announcements: Announcements, uri: str, now: Listing) -> WatchReport:
    """Begin with what a survey knows; there is nothing to announce."""
    arrival = announcements.claim(None, now, settled=True)
    if arrival is not None:
        announcements.note_sent(arrival)
    logger.info(
        "%s: a survey knows all %d files; from now on changes are told", uri, len(now.files)
    )
    return _report("unchanged", uri, now)


def _settle(
    dataset: ObjectStore,
    before: Arrival | None,
    now: Listing,
    *,
    settle: float,
    patience: float,
) -> _Look:
    """Look again until two looks agree, or for as long as the patience lasts."""
    deadline = time.monotonic() + patience
    while True:
        time.sleep(settle)
        again = Listing.of(_look(dataset, before))
        if again == now:
            return _Look(again, settled=True)
        if time.monotonic() > deadline:
            return _Look(again, settled=False)
        logger.info("files still change: %d there now", len(again.files))
        now = again


def _report(state: str, uri: str, listing: Listing, arrival: Arrival | None = None) -> WatchReport:
    change = {} if arrival is None else arrival.model_dump(include={"added", "removed", "changed"})
    return WatchReport.model_validate(
        {"state": state, "dataset": uri, "files": len(listing.files), **change}
    )
