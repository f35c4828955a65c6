"""Whose a record is: its name says nothing to people, but lists of records know its clip."""

from collections.abc import Iterable
from dataclasses import dataclass

from cogvx.housekeeping.documents import read_indexes
from cogvx.housekeeping.names import name_of
from cogvx.store import ObjectStore


@dataclass(frozen=True)
class Whose:
    """Clips and captions that a record is of; of a caption's record there are only captions."""

    clips: tuple[str, ...]
    captions: tuple[str, ...]

    def __str__(self) -> str:
        """In words, the clip before what it shows."""
        words = [*self.clips, *(f'"{caption}"' for caption in self.captions)]
        return ", ".join(words) or "in no list of records"


def find_whose(store: ObjectStore, paths: Iterable[str]) -> dict[str, Whose]:
    """The clips and captions behind records, by the records' places.

    Raises:
        IntegrityError: A list of records cannot be read.
    """
    places = {name_of(path): path for path in paths}
    clips: dict[str, dict[str, None]] = {path: {} for path in places.values()}
    captions: dict[str, dict[str, None]] = {path: {} for path in places.values()}
    for _, index in read_indexes(store, [info.key for info in store.entries("indexes/")]):
        for sample in (*index.train, *index.heldout):
            for name in (sample.latents, *sample.images):
                if name in places:
                    clips[places[name]][sample.clip] = None
                    captions[places[name]][sample.caption] = None
            if sample.prompt in places:
                captions[places[sample.prompt]][sample.caption] = None
    return {path: Whose(tuple(clips[path]), tuple(captions[path])) for path in places.values()}
