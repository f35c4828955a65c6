"""Show what is learned from: a page that a person opens, and the dataset of an MLflow run.

The page lies in the store at pages/<identity>.html, since training may run on another machine than
the survey, and below home for a person. It is made once for a manifest.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from cogvx import files
from cogvx.data.manifest import Manifest
from cogvx.data.statistics import DatasetStatistics
from cogvx.errors import IntegrityError, TransientError
from cogvx.pages.dataset import Before, Dataset, render_dataset
from cogvx.pages.remarks import duration
from cogvx.pages.strips import make_strips
from tasks.progress import is_watched
from tasks.retries import RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.workbench import Workbench, read_stored

if TYPE_CHECKING:
    from tasks.clients.registry import Registry

logger = logging.getLogger(__name__)

# Pictures are worth a wait, but encoding waits for them.
_SECONDS_OF_STRIPS = 60.0


@task(
    name="show dataset",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def show_dataset(bench: Workbench, manifest: Manifest) -> str:
    """Write the page of a manifest, unless it is there, and link it in the Prefect UI.

    Encoding needs no MLflow: while it does not answer there is no page, and the next run makes it.

    Returns:
        Where the page is, empty if there is none this time.
    """
    dataset = _dataset(bench, manifest)
    page = _find(bench, dataset)
    if page is None:
        try:
            champion = _champion(bench)
        except TransientError as error:
            logger.warning("no page of the dataset this time: %s", error)
            return ""
        page = _write(bench, _compared(dataset, champion, _last(bench)))
        logger.info("dataset: %s", page)
    if is_watched():
        create_markdown_artifact(
            _markdown(page, dataset.describe()),
            key="dataset",
            description=f"Dataset of {dataset.name}",
        )
    return str(page)


def log_dataset(bench: Workbench, registry: "Registry", run_id: str, *, manifest: Manifest) -> None:
    """Tell MLflow which clips a run is trained on, and keep their page with the run.

    Told twice, it is there once.
    """
    dataset = _dataset(bench, manifest)
    numbers = dataset.describe()
    registry.log_dataset(
        run_id,
        name=PurePosixPath(urlsplit(bench.dataset.url).path).name or bench.recipe.name,
        digest=numbers.manifest,
        source=bench.dataset.url,
        profile=_profile(numbers),
    )
    page = _find(bench, dataset)
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


def _find(bench: Workbench, dataset: Dataset) -> Path | None:
    """The page on this machine, fetched from the store if need be; None where nobody made it."""
    page, key = _place(bench, dataset), _key(dataset)
    if not page.is_file():
        if bench.store.info(key) is None:
            return None
        files.write_bytes(page, bench.store.read(key))
    return page


def _compared(dataset: Dataset, *before: Before) -> Dataset:
    return dataclasses.replace(dataset, before=before)


def _place(bench: Workbench, dataset: Dataset) -> Path:
    return bench.settings.dataset_folder(dataset.identity) / "index.html"


def _key(dataset: Dataset) -> str:
    return f"pages/{dataset.identity}.html"


def _write(bench: Workbench, dataset: Dataset) -> Path:
    clips = [clip for section in dataset.sections for clip in section.clips]
    strips = make_strips(
        clips,
        bench.dataset,
        fps=bench.recipe.video.fps,
        work=bench.work / "clips",
        seconds=_SECONDS_OF_STRIPS,
    )
    page = render_dataset(dataset, strips).encode()
    bench.put(_key(dataset), page)
    files.write_bytes(_place(bench, dataset), page)
    return _place(bench, dataset)


def _last(bench: Workbench) -> Before:
    """The manifest before the latest one."""
    title, change = "last manifest", bench.shelf.last_change()
    if change is None:
        return Before(title, None, "This is the first one under these settings.")
    return Before(title, *_read(bench, change.before))


def _champion(bench: Workbench) -> Before:
    """What the champion was trained on.

    Raises:
        TransientError: MLflow does not answer.
    """
    nobody = Before("champion", None, "There is none yet, so there is nothing to compare with.")
    if not bench.settings.is_tracked:
        return nobody
    from tasks.clients.registry import CHAMPION, MANIFEST_TAG, Registry  # noqa: PLC0415 - slow

    registry = Registry(bench.settings.mlflow_uri, bench.settings.mlflow_artifacts)
    version = registry.get_alias(bench.recipe.name, CHAMPION)
    if version is None:
        return nobody
    title = f"champion v{version.version}"
    name = version.tags.get(MANIFEST_TAG)
    if name is None:
        return Before(title, None, f"{version.uri} does not say what it was trained on.")
    return Before(title, *_read(bench, name))


def _read(bench: Workbench, name: str) -> tuple[Manifest | None, str]:
    """A manifest by its content, whatever settings it was screened under; or why there is none."""
    found = (info.key for info in bench.store.entries("manifests/"))
    key = next((key for key in found if key.endswith(f"/{name}.json")), None)
    if key is None:
        return None, f"Its manifest {name} is not in this store any more."
    try:
        return read_stored(bench.store, key, Manifest), ""
    except IntegrityError as error:
        return None, f"Its manifest cannot be read: {error}."


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
        f"[{page}]({page.resolve().as_uri()})\n\n"
        f"- {numbers.all.clips:,} clips, {numbers.all.windows:,} windows,"
        f" {duration(numbers.all.seconds)}\n"
        f"- {numbers.heldout.clips:,} held out\n"
        f"- {sum(numbers.rejected.values()):,} rejected\n"
        f"- manifest {numbers.manifest}\n"
    )
