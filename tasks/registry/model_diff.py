"""What differs between two versions: what they were made of, settings, results, weights."""

from collections.abc import Mapping

from cogvx.errors import CogvxError, IntegrityError
from cogvx.housekeeping.documents import NeededByRun, read_kept
from cogvx.store import ObjectStore
from tasks.clients.registry import Registry
from tasks.clients.runs import RUN_TAG
from tasks.clients.stores import open_record_store
from tasks.clients.versions import RESULT_TAGS, Version
from tasks.registry.model_documents import Difference, ModelsDiff, WeightsDiff
from tasks.registry.models import fetch_adapter, find, open_models
from tasks.settings import settings


def diff_versions(a: str, b: str) -> ModelsDiff:
    """What differs; what is the same on both sides is left out.

    Raises:
        ConfigError: One of them names no version.
    """
    registry, store = open_models(), open_record_store(settings())
    one, other = find(registry, a), find(registry, b)
    tags = _differences(one.tags, other.tags)
    results = _differences(
        _texts(registry.last_values(one.run_id)), _texts(registry.last_values(other.run_id))
    )
    weights, missing = _weights(registry, one, other)
    return ModelsDiff(
        a=one.uri,
        b=other.uri,
        made_of=tuple(item for item in tags if item.name not in RESULT_TAGS),
        settings=_differences(registry.settings_of(one.run_id), registry.settings_of(other.run_id)),
        results=(*(item for item in tags if item.name in RESULT_TAGS), *results),
        clips=_clips(store, one, other),
        weights=weights,
        weights_missing=missing,
    )


def _weights(
    registry: Registry, one: Version, other: Version
) -> tuple[WeightsDiff | None, str | None]:
    """Norms and distance of the two adapters, or why there are none."""
    try:
        files = [fetch_adapter(registry, version) for version in (one, other)]
        # PyTorch takes seconds to import, and is not needed to say that there is no file.
        from cogvx.adapters.distance import distance  # noqa: PLC0415
        from cogvx.adapters.weights import read_pairs  # noqa: PLC0415

        found = distance(*map(read_pairs, files))
    except CogvxError as error:
        return None, str(error)
    measured = WeightsDiff(
        norm_a=found.a,
        norm_b=found.b,
        distance=found.apart,
        relative_distance=found.relative,
    )
    return measured, None


def _clips(store: ObjectStore, one: Version, other: Version) -> str | None:
    """How many clips only one of them saw; None where the store does not hold both runs."""
    sides = [_seen(store, version.tags.get(RUN_TAG, "")) for version in (one, other)]
    before, after = sides
    if before is None or after is None:
        return None
    if before == after:
        return "the same"
    return f"{len(after - before)} only in b, {len(before - after)} only in a"


def _seen(store: ObjectStore, run: str) -> set[str] | None:
    key = f"runs/{run}/run.json"
    if not run or store.info(key) is None:
        return None
    try:
        spec = read_kept(store, key, NeededByRun)
    except IntegrityError:
        return None  # another version of this project wrote it
    return {sample.clip for sample in (*spec.train, *spec.heldout)}


def _differences(a: Mapping[str, str], b: Mapping[str, str]) -> tuple[Difference, ...]:
    return tuple(
        Difference(name=name, a=a.get(name), b=b.get(name))
        for name in sorted({**a, **b})
        if a.get(name) != b.get(name)
    )


def _texts(values: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.6g}" for name, value in values.items()}
