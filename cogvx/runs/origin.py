"""What a run was begun as, and in which words it differs from what it is asked to be now.

A run goes on as what it was begun as, or not at all. Whoever changed it is told what they changed,
since the digest that refuses them tells nobody anything.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from cogvx.cache.plan import Sample
from cogvx.digest import digest
from cogvx.errors import ConfigError, IntegrityError, as_toml
from cogvx.files import read_document, write_document
from cogvx.runs.folder import RunFolder, RunSpec

_SHOWN = 8
_SHORT = 12


class Origin(BaseModel):
    """What decides a run's weights, kept with each of its checkpoints.

    `settings` are plain, since another version of this project may know other ones. The clips
    themselves are too many to be kept each time: they stand once in the run folder's `begun.json`,
    and `clips` is a digest of them, empty where an older version wrote this.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any]
    manifest: str
    clips: str = ""
    windows: int
    heldout: int
    base_fingerprint: str
    code_version: str

    @classmethod
    def of(cls, spec: RunSpec) -> Self:
        """Of a run as its document says it."""
        return cls(
            settings=spec.recipe.deciding_settings(),
            manifest=spec.manifest,
            clips=digest([_plain(spec.train), _plain(spec.heldout), spec.empty_prompt]),
            windows=len(spec.train),
            heldout=len(spec.heldout),
            base_fingerprint=spec.base_fingerprint,
            code_version=spec.code_version,
        )


def changes(was: Origin, now: Origin, *, clips: str = "") -> list[str]:
    """What differs, as `train.learning_rate was 0.0001 and is 0.0002`, settings first.

    `clips` says which clips changed, where that is known; else their numbers must do.
    """
    before, after = dict(_flat(was.settings)), dict(_flat(now.settings))
    found = [
        f"{name} was {_shown(before.get(name))} and is {_shown(after.get(name))}"
        for name in sorted({**before, **after})
        if before.get(name) != after.get(name)
    ]
    if clips or was.manifest != now.manifest or _counts(was) != _counts(now):
        found.append(f"the clips were {_counts(was)} and are {clips or _counts(now)}")
    for name, old, new in (
        ("the base model's weights", was.base_fingerprint, now.base_fingerprint),
        ("cogvx", was.code_version, now.code_version),
    ):
        if old != new:
            found.append(f"{name} was {old[:_SHORT]} and is {new[:_SHORT]}")
    # by itself: most other changes change what is made of the clips too
    if not found and was.clips and was.clips != now.clips:
        found.append("the clips were others, or something else was made of them")
    return found


def changes_of(was: RunSpec, now: RunSpec) -> list[str]:
    """What differs between two runs whose clips are both known."""
    return changes(Origin.of(was), Origin.of(now), clips=_clip_changes(was, now))


def in_words(found: list[str]) -> str:
    """The changes in one line, the first of them in full."""
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return "; ".join(found[:_SHOWN] + more)


def refusal(folder: RunFolder, was: Origin, *, run: str) -> ConfigError:
    """The error for a run folder that says now something else than when it was begun.

    A person may have edited its run.json, and then the run has kept its name.

    Args:
        folder: With run.json, and begun.json unless its checkpoints came from elsewhere.
        was: What its newest checkpoint says.
        run: Digest of the run that the checkpoint belongs to.
    """
    now, begun = folder.read_spec(), _begun(folder)
    clips = "" if begun is None or begun.run != run else _clip_changes(begun, now)
    found = changes(was, Origin.of(now), clips=clips)
    # nothing else stands in a run's digest
    what = in_words(found) or "which sizes are encoded in tiles was decided otherwise"
    subject = f"{folder.root} was begun as run {run[:_SHORT]} and now says {now.run[:_SHORT]}"
    if now.run == run:
        subject = f"{folder.spec} says something else than when run {run[:_SHORT]} was begun"
    return ConfigError(
        f"{subject}: {what}. "
        "Put that back to go on, or use a new run folder to begin anew; with train.fork_of = "
        f'"{run}" that begins with the weights of this one'
    )


def keep_beginning(folder: RunFolder, spec: RunSpec) -> None:
    """Write down what the run is begun as, once; to be called when its checkpoints agree with it.

    What stood there without a single checkpoint was begun in vain.
    """
    begun = _begun(folder)
    if begun is None or begun.run != spec.run or changes_of(begun, spec):
        write_document(folder.begun, spec)


def _begun(folder: RunFolder) -> RunSpec | None:
    """The document the run began with; None too when another version wrote it."""
    if not folder.begun.is_file():
        return None
    try:
        return read_document(folder.begun, RunSpec)
    except IntegrityError:
        return None


def _clip_changes(was: RunSpec, now: RunSpec) -> str:
    """How many clips came, went, or changed in what is made of them; empty when none did."""
    before, after = _by_clip(was), _by_clip(now)
    counts = {
        "added": len(after.keys() - before.keys()),
        "removed": len(before.keys() - after.keys()),
        "changed": sum(before[clip] != after[clip] for clip in before.keys() & after.keys()),
    }
    told = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
    return f"{_counts(Origin.of(now))}: {told}" if told else ""


def _by_clip(spec: RunSpec) -> dict[str, set[tuple[bool, Sample]]]:
    """What is made of each clip, and whether it is held out."""
    clips: dict[str, set[tuple[bool, Sample]]] = {}
    for held_out, samples in ((False, spec.train), (True, spec.heldout)):
        for sample in samples:
            clips.setdefault(sample.clip, set()).add((held_out, sample))
    return clips


def _plain(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    return [sample.model_dump(mode="json") for sample in samples]


def _counts(origin: Origin) -> str:
    return f"{origin.windows} windows and {origin.heldout} held out"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: object) -> str:
    return "unset" if value is None else as_toml(value)
