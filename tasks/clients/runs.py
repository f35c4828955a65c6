"""MLflow's runs behind typed calls, each with the run it means named explicitly.

There is no active run and no global tracking address, so threads and several servers do not meet.
"""

import contextlib
import fcntl
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException

from cogvx.errors import ConfigError
from tasks.clients.mlflow_errors import telling
from tasks.clients.secrets import without_secrets

RUN_TAG = "cogvx.run"
NOTE_TAG = "mlflow.note.content"
"""What MLflow's page of a run says first, as Markdown."""
NOTE_CHARACTERS = 5000

_SQLITE = "sqlite:///"
# MLflow's own limits for one call.
_METRICS_AT_ONCE = 1000
_PARAMS_AT_ONCE = 100
_RUNS_AT_ONCE = 100  # as their ids stand in the question
_PARAM_CHARACTERS = 6000
_DATASET_NAME_CHARACTERS = 500
_DATASET_DIGEST_CHARACTERS = 36
_DATASET_CONTEXT = "mlflow.data.context"  # the tag by which its pages group datasets
# For the pages of a server, which know experiments of traces and of models.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
_TABLES = "mlflow.loggedArtifacts"  # the tag by which its pages know tables


@dataclass(frozen=True)
class Point:
    """One value of a metric; `when` is in seconds since 1970."""

    name: str
    value: float
    step: int = 0
    when: float = field(default_factory=time.time)


@dataclass(frozen=True)
class RunFacts:
    """Where a run is, and the last value of each of its metrics."""

    experiment_id: str
    metrics: Mapping[str, float]


class Runs:
    """The runs of one MLflow server or SQLite file."""

    def __init__(self, tracking_uri: str, artifact_root: Path | None = None) -> None:
        """Connect; a new SQLite file is made together with its folder and its tables.

        Args:
            tracking_uri: `http://...`, or `sqlite:///` and an absolute path.
            artifact_root: Where artifacts of new experiments lie; None leaves it to the server.

        Raises:
            ConfigError: The address is of no kind that MLflow knows, or is no database.
            TransientError: Nothing answers there, or another process is making the tables.
        """
        self.tracking_uri = tracking_uri
        self.artifact_root = artifact_root
        with self._asking("connect"), _alone_with(tracking_uri), quiet("mlflow.store.db.utils"):
            self._client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
            self._client.search_experiments(max_results=1)  # the first call makes the tables

    def ensure_experiment(self, name: str) -> str:
        """The id of the experiment called `name`, made if it is not there."""
        with self._asking(f"open the experiment {name}"):
            found = self._client.get_experiment_by_name(name)
            if found is None:
                found = self._create_experiment(name)
            if found.lifecycle_stage != "active":
                raise ConfigError(
                    f"the experiment {name} at {without_secrets(self.tracking_uri)} is deleted;"
                    " restore it in MLflow"
                )
            experiment_id: str = found.experiment_id
            return experiment_id

    def start_run(self, experiment: str, name: str, *, tags: Mapping[str, str]) -> str:
        """Start a run and return its id; `experiment` is a name."""
        experiment_id = self.ensure_experiment(experiment)
        with self._asking("start a run"):
            run = self._client.create_run(experiment_id, run_name=name, tags=dict(tags))
            run_id: str = run.info.run_id
            return run_id

    def find_run(self, experiment: str, run: str) -> str | None:
        """The id of the newest run with `run` under RUN_TAG, so that work is resumed in place."""
        experiment_id = self.ensure_experiment(experiment)
        with self._asking("look for a run"):
            found = self._client.search_runs(
                [experiment_id],
                filter_string=f"tags.`{RUN_TAG}` = '{run}'",
                order_by=["attributes.start_time DESC"],
                max_results=1,
            )
            return found[0].info.run_id if found else None

    def log_params(self, run_id: str, params: Mapping[str, object]) -> None:
        """Record settings; nested ones under names with dots. The same again changes nothing."""
        flat = [
            Param(name, str(value)[:_PARAM_CHARACTERS])
            for name, value in _flattened(params).items()
        ]
        with self._asking("record settings"):
            for start in range(0, len(flat), _PARAMS_AT_ONCE):
                self._client.log_batch(run_id, params=flat[start : start + _PARAMS_AT_ONCE])

    def log_metrics(self, run_id: str, points: Sequence[Point]) -> None:
        """Record values of metrics, in as few calls as the server allows."""
        metrics = [
            Metric(point.name, point.value, int(point.when * 1000), point.step) for point in points
        ]
        with self._asking("record metrics"):
            for start in range(0, len(metrics), _METRICS_AT_ONCE):
                self._client.log_batch(run_id, metrics=metrics[start : start + _METRICS_AT_ONCE])

    def last_steps(self, run_id: str) -> dict[str, int]:
        """The last step that each metric of a run was recorded for."""
        with self._asking("look up metrics"):
            # as a message, since the plain dictionary of values leaves the steps out
            metrics = self._client.get_run(run_id).data.to_proto().metrics
            return {metric.key: metric.step for metric in metrics}

    def last_values(self, run_id: str) -> dict[str, float]:
        """The last value of each metric of a run; none of a version that no run made."""
        if not run_id:
            return {}
        with self._asking("look up metrics"):
            return dict(sorted(self._client.get_run(run_id).data.metrics.items()))

    def facts_of_runs(self, run_ids: Sequence[str]) -> dict[str, RunFacts]:
        """What is known of runs, by id, in few calls; those that are not there are left out."""
        wanted, facts = list(dict.fromkeys(run_ids)), dict[str, RunFacts]()
        with self._asking("look up runs"):
            while wanted:
                first, *wanted = wanted
                run = self._run_if_there(first)
                if run is None:
                    continue
                # most likely the others are in the same experiment
                for found in [run, *self._runs_among(wanted, run.info.experiment_id)]:
                    where = found.info.experiment_id
                    facts[found.info.run_id] = RunFacts(where, dict(found.data.metrics))
                wanted = [each for each in wanted if each not in facts]
        return facts

    def settings_of(self, run_id: str) -> dict[str, str]:
        """What `log_params` recorded for a run; none of a version that no run made."""
        if not run_id:
            return {}
        with self._asking("look up settings"):
            return dict(sorted(self._client.get_run(run_id).data.params.items()))

    def set_run_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        with self._asking("tag a run"):
            self._client.log_batch(run_id, tags=[RunTag(name, tags[name]) for name in tags])

    def log_artifact(self, run_id: str, path: Path, *, folder: str | None = None) -> None:
        """Keep a file, or a folder's files, with a run, below `folder`."""
        with self._asking(f"keep {path.name}"):
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), folder)
            else:
                self._client.log_artifact(run_id, str(path), folder)

    def log_table(
        self,
        run_id: str,
        path: str,
        *,
        columns: Sequence[str],
        rows: Sequence[Sequence[str | float | None]],
    ) -> None:
        """Keep a table with a run, instead of what lies at `path`, where MLflow's pages show it.

        In the form of MLflow's own `log_table`, which adds to what is there. `path` ends in .json.
        """
        table = {"columns": list(columns), "data": [list(row) for row in rows]}
        folder, _, name = path.rpartition("/")
        with self._asking(f"keep {name}"), tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / name
            file.write_text(json.dumps(table, allow_nan=False), encoding="utf-8")
            self._client.log_artifact(run_id, str(file), folder or None)
            tags = self._client.get_run(run_id).data.tags
            tables = json.loads(tags.get(_TABLES, "[]"))
            if (entry := {"path": path, "type": "table"}) not in tables:
                self._client.set_tag(run_id, _TABLES, json.dumps([*tables, entry]))

    def log_dataset(
        self, run_id: str, *, name: str, digest: str, source: str, profile: Mapping[str, object]
    ) -> None:
        """Say what a run is trained on. The same again changes nothing.

        Args:
            run_id: MLflow's run.
            name: What people call the dataset.
            digest: Names its content; MLflow keeps the first 36 characters.
            source: URL of the clips.
            profile: What is to be known of it, as JSON takes it.
        """
        scheme = source.partition("://")[0]
        dataset = Dataset(
            name=name[:_DATASET_NAME_CHARACTERS],
            digest=digest[:_DATASET_DIGEST_CHARACTERS],
            source_type="local" if scheme == "file" else scheme,
            source=json.dumps({"uri": source}),
            profile=json.dumps(profile),
        )
        tags = [InputTag(_DATASET_CONTEXT, "training")]
        with self._asking("record the dataset"):
            self._client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags)])

    def end_run(self, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Say how a run ended."""
        with self._asking("end a run"):
            self._client.set_terminated(run_id, status)

    def reopen_run(self, run_id: str) -> None:
        """Mark a run as running again, when its work is resumed."""
        with self._asking("reopen a run"):
            self._client.update_run(run_id, status="RUNNING")

    def _run_if_there(self, run_id: str) -> Run | None:
        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _runs_among(self, run_ids: Sequence[str], experiment_id: str) -> list[Run]:
        """Those of these runs that are in an experiment."""
        found: list[Run] = []
        for start in range(0, len(run_ids), _RUNS_AT_ONCE):
            some = ", ".join(f"'{each}'" for each in run_ids[start : start + _RUNS_AT_ONCE])
            found += self._client.search_runs(
                [experiment_id],
                filter_string=f"attributes.run_id IN ({some})",
                max_results=_RUNS_AT_ONCE,
            )
        return found

    def _create_experiment(self, name: str) -> Experiment:
        location = None
        if self.artifact_root is not None:
            location = (self.artifact_root / name).resolve().as_uri()
        try:
            experiment_id = self._client.create_experiment(
                name, artifact_location=location, tags=_KIND
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._client.get_experiment_by_name(name)
        return self._client.get_experiment(experiment_id)

    @contextlib.contextmanager
    def _asking(self, act: str) -> Iterator[None]:
        with telling(act, self.tracking_uri):
            yield


@contextlib.contextmanager
def _alone_with(tracking_uri: str) -> Iterator[None]:
    """Let one process at a time open an SQLite file: MLflow makes its tables in many steps.

    The lock is a file beside the database, let go by the kernel; MLflow's own processes pass it by.
    """
    if not tracking_uri.startswith(_SQLITE):
        yield
        return
    lock = Path(tracking_uri.removeprefix(_SQLITE) + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _flattened(params: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """Keep what one of MLflow's loggers says below a warning from standard error."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
