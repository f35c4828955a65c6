"""Show what is learned from: a page that a person opens, and the dataset of an MLflow run.

A page lies in the store at pages/<dataset>/<name>.html, since training may run on another machine
than the survey, and below home for a person. The name holds what the dataset is compared with, so a
page is made once for a manifest beside a champion. Naming it costs a question to MLflow; the
manifests to compare with are read only where there is no such page yet.
"""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE

from cogvx import files
from cogvx.data.manifest import Manifest
from cogvx.data.statistics import DatasetStatistics
from cogvx.digest import digest
from cogvx.errors import IntegrityError, TransientError
from cogvx.housekeeping.names import name_of
from cogvx.pages.dataset import Before, Dataset, render_dataset
from cogvx.pages.remarks import duration
from cogvx.pages.strips import make_strips
from tasks.caching.clips_table import show_clips
from tasks.pages.assets import tell_asset
from tasks.pages.labels import dataset_name
from tasks.pools.retries import RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.workbench import Workbench, read_stored

if TYPE_CHECKING:
    from tasks.clients.registry import Registry

logger = logging.getLogger(__name__)

# Pictures are worth a wait, but encoding waits for them.
_SECONDS_OF_STRIPS = 60.0


@dataclass(frozen=True)
class _Earlier:
    """What to compare with, by the name of its manifest; `absent` says why there is none."""

    title: str
    manifest: str = ""
    absent: str = ""


@task(
    name="show dataset",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def show_dataset(bench: Workbench, manifest: Manifest) -> str:
    """Write the page of a manifest, unless it is there, and link it in the Prefect UI.

    Another champion gives another page, as the page says what is new since the champion's clips.

    Encoding needs no MLflow: while it does not answer there is no page, and the next run makes it.

    Returns:
        Where the page is, empty if there is none this time.
    """
    dataset = _dataset(bench, manifest)
    facts = {"manifest": manifest.content_digest(), "clips": manifest.count_clips(manifest.clips)}
    tell_asset(bench.recipe.name, "manifest", facts)
    try:
        champion = _champion(bench, _registry(bench))
    except TransientError as error:
        logger.warning("no page of the dataset this time: %s", error)
        return ""
    earlier = (champion, _last(bench))
    key = _key(dataset, earlier)
    page = _find(bench, key)
    if page is None:
        before = tuple(_read(bench, one) for one in earlier)
        page = _write(bench, dataclasses.replace(dataset, before=before), key)
        logger.info("dataset: %s", page)
    show_clips(manifest, dataset.name, _markdown(page, dataset.describe()))
    return str(page)


def log_dataset(bench: Workbench, registry: "Registry", run_id: str, *, manifest: Manifest) -> None:
    """Tell MLflow which clips a run is trained on, and keep their page with the run.

    Told twice, it is there once. Where the champion moved since the survey, it is the newest page.
    """
    dataset = _dataset(bench, manifest)
    numbers = dataset.describe()
    registry.log_dataset(
        run_id,
        name=dataset_name(bench.dataset.url) or bench.recipe.name,
        digest=numbers.manifest,
        source=bench.dataset.url,
        profile=_profile(numbers),
    )
    page = _find(bench, _key(dataset, (_champion(bench, registry), _last(bench))))
    if page is None:
        page = _find_newest(bench, dataset)
    if page is not None:
        registry.log_artifact(run_id, page, folder="dataset")


def _dataset(bench: Workbench, manifest: Manifest) -> Dataset:
    return Dataset(
        name=bench.recipe.name,
        manifest=manifest,
        config=bench.recipe.dataset,
        video=bench.recipe.video,
        token_limit=bench.facts.text_tokens,
    )


def _key(dataset: Dataset, earlier: tuple[_Earlier, ...]) -> str:
    """Where the page lies: named by all that it shows."""
    compared = [dataclasses.asdict(one) for one in earlier]
    name = digest({"dataset": dataset.identity, "compared": compared})
    return f"{_folder(dataset)}{name}.html"


def _folder(dataset: Dataset) -> str:
    return f"pages/{dataset.identity}/"


def _place(bench: Workbench, key: str) -> Path:
    return bench.settings.dataset_folder(name_of(key)) / "index.html"


def _find(bench: Workbench, key: str) -> Path | None:
    """The page on this machine, fetched from the store if need be; None where nobody made it."""
    page = _place(bench, key)
    if not page.is_file():
        if bench.store.info(key) is None:
            return None
        files.write_bytes(page, bench.store.read(key))
    return page


def _find_newest(bench: Workbench, dataset: Dataset) -> Path | None:
    """The page that was made last, whatever it compares with."""
    pages = bench.store.entries(_folder(dataset))
    newest = max(pages, key=lambda info: info.modified, default=None)
    return None if newest is None else _find(bench, newest.key)


def _write(bench: Workbench, dataset: Dataset, key: str) -> Path:
    clips = [clip for section in dataset.sections for clip in section.clips]
    strips = make_strips(
        clips,
        bench.dataset,
        fps=bench.recipe.video.fps,
        work=bench.work / "clips",
        seconds=_SECONDS_OF_STRIPS,
    )
    page = render_dataset(dataset, strips).encode()
    bench.put(key, page)
    files.write_bytes(_place(bench, key), page)
    return _place(bench, key)


def _last(bench: Workbench) -> _Earlier:
    """The manifest before the latest one."""
    title, change = "last manifest", bench.shelf.last_change()
    if change is None:
        return _Earlier(title, absent="This is the first one under these settings.")
    return _Earlier(title, change.before)


def _registry(bench: Workbench) -> "Registry | None":
    """The MLflow of these settings, None where nobody made it yet; importing MLflow takes 1.5 s.

    Raises:
        TransientError: MLflow does not answer.
    """
    if not bench.settings.is_tracked:
        return None
    from tasks.clients.registry import Registry  # noqa: PLC0415 - slow

    return Registry(bench.settings.mlflow_uri, bench.settings.mlflow_artifacts)


def _champion(bench: Workbench, registry: "Registry | None") -> _Earlier:
    """What the champion was trained on.

    Raises:
        TransientError: MLflow does not answer.
    """
    nobody = _Earlier("champion", absent="There is none yet, so there is nothing to compare with.")
    if registry is None:
        return nobody
    from tasks.clients.registry import CHAMPION, MANIFEST_TAG  # noqa: PLC0415 - slow

    version = registry.get_alias(bench.recipe.name, CHAMPION)
    if version is None:
        return nobody
    title = f"champion v{version.version}"
    name = version.tags.get(MANIFEST_TAG)
    if name is None:
        return _Earlier(title, absent=f"{version.uri} does not say what it was trained on.")
    return _Earlier(title, name)


def _read(bench: Workbench, earlier: _Earlier) -> Before:
    """Its manifest, whatever settings that was screened under; or why there is none."""
    name = earlier.manifest
    if not name:
        return Before(earlier.title, None, earlier.absent)
    found = (info.key for info in bench.store.entries("manifests/"))
    key = next((key for key in found if key.endswith(f"/{name}.json")), None)
    if key is None:
        absent = f"Its manifest {name} is not in this store any more."
        return Before(earlier.title, None, absent)
    try:
        return Before(earlier.title, read_stored(bench.store, key, Manifest))
    except IntegrityError as error:
        return Before(earlier.title, None, f"Its manifest cannot be read: {error}.")


def _profile(numbers: DatasetStatistics) -> Mapping[str, object]:
    """What MLflow shows beside a dataset; `num_rows` is a name of its own."""
    return {
        "num_rows": numbers.all.windows,
        "clips": numbers.all.clips,
        "windows_train": numbers.train.windows,
        "windows_heldout": numbers.heldout.windows,
        "seconds": numbers.all.seconds,
        "sizes": {bucket.size: bucket.windows for bucket in numbers.buckets},
        "captions_too_long": numbers.too_long,
        "rejected": numbers.rejected,
        "manifest": numbers.manifest,
    }


def _markdown(page: Path, numbers: DatasetStatistics) -> str:
    return (
        f"- {numbers.all.clips:,} clips, {numbers.all.windows:,} windows,"
        f" {duration(numbers.all.seconds)}\n"
        f"- {numbers.heldout.clips:,} held out\n"
        f"- {sum(numbers.rejected.values()):,} rejected\n"
        f"- manifest `{numbers.manifest}`\n"
        f"- page with pictures, on the machine that made it: `{page}`\n"
    )
