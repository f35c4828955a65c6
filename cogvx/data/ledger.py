"""What is already known of a dataset's clips, so that an unchanged clip is never fetched again."""

from collections.abc import Collection, MutableMapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cogvx.data.manifest import ClipFacts, Fault, Refused
from cogvx.data.probe import PROBE_VERSION
from cogvx.digest import canonical_json, digest
from cogvx.errors import IntegrityError
from cogvx.store import ObjectInfo, ObjectStore

# Faults of the moment rather than of the bytes: the next look decides.
_PASSING = ("missing", "changed", "forbidden")


class Probed(BaseModel):
    """What was found in one file's bytes: facts, or the fault of bytes that cannot be used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    stamp: str
    sha256: str
    facts: ClipFacts | None
    fault: Fault | None = None


class ReadText(BaseModel):
    """What was found in one text beside a clip: a caption, or why it is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    stamp: str
    caption: str | None
    fault: Fault | None = None


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    probe_version: int
    dataset: str
    clips: dict[str, Probed]
    texts: dict[str, ReadText] = {}


class Ledger:
    """One document in the record store for each dataset; the last writer wins.

    What a lost entry costs is one more look at one clip. It also keeps the captions that lie in
    texts of their own, because reading 10,000 of them from a bucket is 10,000 requests.
    """

    def __init__(self, store: ObjectStore, dataset_url: str) -> None:
        """Start empty; use `load` for what is already known."""
        self._store = store
        self._dataset = dataset_url
        self._clips: dict[str, Probed] = {}
        self._texts: dict[str, ReadText] = {}
        self._changed = False

    @classmethod
    def load(cls, store: ObjectStore, dataset_url: str) -> Self:
        """Read back what is known of a dataset; facts of an older probe are forgotten.

        Raises:
            IntegrityError: The document is damaged; the message says which to delete.
        """
        ledger = cls(store, dataset_url)
        if store.info(ledger.path) is None:
            return ledger
        try:
            document = _Document.model_validate_json(store.read(ledger.path))
        except ValidationError as error:
            raise IntegrityError(
                f"{ledger.path} in {store.url} is damaged; delete it, and clips are probed anew"
            ) from error
        if document.probe_version == PROBE_VERSION:
            ledger._clips = document.clips
            ledger._texts = document.texts
        return ledger

    @property
    def path(self) -> str:
        """Where the document lies in the store."""
        return f"probes/{digest(self._dataset)}.json"

    def known(self, info: ObjectInfo) -> Probed | None:
        """What was found in this file, if it is unchanged since."""
        probed = self._clips.get(info.key)
        return probed if probed is not None and _is_of(probed, info) else None

    def known_text(self, info: ObjectInfo) -> ReadText | None:
        """What was found in this text, if it is unchanged since."""
        text = self._texts.get(info.key)
        return text if text is not None and _is_of(text, info) else None

    def last(self, key: str) -> Probed | None:
        """What was found under this key, whether or not it changed since."""
        return self._clips.get(key)

    def is_of(self, clips: Collection[ObjectInfo], texts: Collection[ObjectInfo]) -> bool:
        """Whether these files, unchanged, are all that it knows and it knows them all."""
        same = len(clips) == len(self._clips) and len(texts) == len(self._texts)
        return (
            same
            and all(self.known(info) is not None for info in clips)
            and all(self.known_text(info) is not None for info in texts)
        )

    def remember(self, key: str, probed: Probed) -> None:
        """Keep what was found, until the next `save` in memory only."""
        self._clips[key] = probed
        self._changed = True

    def remember_text(self, key: str, text: ReadText) -> None:
        """Keep what a text said, until the next `save` in memory only."""
        self._texts[key] = text
        self._changed = True

    def refuse(self, clip: Refused) -> None:
        """Rule a clip out for as long as its bytes stay the same.

        For faults that show only when the clip is decoded. A clip that was missing, had changed, or
        could not be read is looked at again instead. Nothing happens if other bytes are known by
        now, or none: somebody has looked since.
        """
        probed = self._clips.get(clip.key)
        if probed is None or probed.sha256 != clip.sha256:
            return
        self._changed = True
        if clip.reason in _PASSING:
            del self._clips[clip.key]
            return
        fault = Fault(reason=clip.reason, detail=clip.detail)
        self._clips[clip.key] = probed.model_copy(update={"fault": fault})

    def forget_others(self, keys: Collection[str]) -> None:
        """Drop clips that the dataset no longer has."""
        self._changed |= _drop_others(self._clips, keys)

    def forget_other_texts(self, keys: Collection[str]) -> None:
        """Drop texts that the dataset no longer has."""
        self._changed |= _drop_others(self._texts, keys)

    def save(self) -> None:
        """Write the document, unless nothing changed."""
        if not self._changed:
            return
        document = _Document(
            probe_version=PROBE_VERSION,
            dataset=self._dataset,
            clips=self._clips,
            texts=self._texts,
        )
        self._store.write(self.path, canonical_json(document))
        self._changed = False


def _is_of(found: Probed | ReadText, info: ObjectInfo) -> bool:
    return (found.size, found.stamp) == (info.size, info.stamp)


def _drop_others(known: MutableMapping[str, Any], keys: Collection[str]) -> bool:
    """Whether anything was dropped."""
    others = [key for key in known if key not in keys]
    for key in others:
        del known[key]
    return bool(others)
