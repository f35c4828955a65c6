"""The registry: versions of adapters, found by the run that made them, and the aliases on them.

Moving an alias is the only change that is ever made to what is registered; tags add to it.
"""

import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlflow.artifacts
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from cogvx.adapters.card import ADAPTER_FILE, AdapterCard, read_card
from cogvx.digest import sha256_file
from cogvx.errors import IntegrityError, UserError
from cogvx.files import copy_file
from tasks.clients.package import ADAPTER_PATH, Serving, write_package
from tasks.clients.runs import RUN_TAG, Point, Runs

__all__ = ["CHALLENGER", "CHAMPION", "PREVIOUS_CHAMPION", "Point", "Registry", "Serving", "Version"]

CHALLENGER = "challenger"
CHAMPION = "champion"
PREVIOUS_CHAMPION = "previous_champion"
ADAPTER_TAG = "cogvx.adapter"
MANIFEST_TAG = "cogvx.manifest"

_VERSIONS_AT_ONCE = 1000

# MLflow has no compare-and-set for aliases; within one process this lock is one.
_aliases = threading.Lock()


@dataclass(frozen=True)
class Version:
    """A registered adapter. `run_id` is MLflow's run; the tag RUN_TAG holds ours."""

    name: str
    version: int
    aliases: tuple[str, ...]
    run_id: str
    source: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.name}/{self.version}"


class Registry(Runs):
    """Versions of one MLflow server or SQLite file, beside its runs."""

    def find_version(self, name: str, run: str) -> Version | None:
        """The version that our run `run` made, if it was registered."""
        with self._asking(f"look for a version of {name}"):
            found = self._client.search_model_versions(
                f"name = '{name}' and tags.`{RUN_TAG}` = '{run}'"
            )
            numbers = sorted(int(item.version) for item in found)
        return self.version(name, numbers[0]) if numbers else None

    def register(
        self,
        name: str,
        adapter_file: Path,
        *,
        run_id: str,
        serving: Serving,
        tags: Mapping[str, str] | None = None,
    ) -> Version:
        """Make an adapter file a version with the alias CHALLENGER; once for each of our runs.

        A run that has a version already gets that version back; the alias is set again only on the
        newest one, in case an earlier call was cut off before it. Of racing registrations of one
        run the first stays, and the others take themselves back.

        Args:
            name: The registered model, made if need be.
            adapter_file: An exported adapter, with its card.
            run_id: MLflow's run that trained it.
            serving: What the version generates with.
            tags: Added to those that the card gives.

        Raises:
            IntegrityError: The file is no adapter of ours.
        """
        card = read_card(adapter_file)
        if card is None or card.run is None:
            raise IntegrityError(f"{adapter_file} was not trained here, so it cannot be traced")
        known = self.find_version(name, card.run)
        if known is not None:
            if known.version == self.versions(name)[0].version:
                self.set_alias(name, CHALLENGER, known.version)
            return self.version(name, known.version)
        all_tags = {**lineage(card), ADAPTER_TAG: sha256_file(adapter_file), **(tags or {})}
        model = self._upload(adapter_file, run_id, serving=serving, step=card.steps or 0)
        with self._asking(f"register {name}"):
            self._ensure_model(name)
            made = self._client.create_model_version(
                name,
                # Not models:/<id>: an SQLite store would look that up at the global address.
                source=model.artifact_location,
                run_id=run_id,
                tags=all_tags,
                model_id=model.model_id,
                await_creation_for=0,  # what the call returns is already complete
            )
        first = self.find_version(name, card.run)
        if first is not None and first.version != int(made.version):
            with self._asking(f"take back {name} {made.version}"):
                self._client.delete_model_version(name, made.version)
            return first
        self.set_alias(name, CHALLENGER, int(made.version))
        return self.version(name, int(made.version))

    def version(self, name: str, version: int) -> Version:
        """One version as it stands now.

        Raises:
            ConfigError: There is none.
        """
        with self._asking(f"find version {version} of {name}"):
            return _version(self._client.get_model_version(name, str(version)))

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, newest first; none when the model is unknown."""
        with self._asking(f"list the versions of {name}"):
            found = self._client.search_model_versions(f"name = '{name}'")
        aliases = self._alias_numbers(name)
        holders: dict[int, tuple[str, ...]] = {}
        for alias, number in sorted(aliases.items()):
            holders[number] = (*holders.get(number, ()), alias)
        listed = [_version(item, holders.get(int(item.version), ())) for item in found]
        return sorted(listed, key=lambda item: -item.version)

    def all_versions(self) -> list[Version]:
        """All versions of all models of this server, whoever made them; aliases are left out."""
        with self._asking("list all versions"):
            found = self._client.search_model_versions(max_results=_VERSIONS_AT_ONCE)
            versions = list(found)
            while found.token:
                found = self._client.search_model_versions(
                    max_results=_VERSIONS_AT_ONCE, page_token=found.token
                )
                versions += found
        return [_version(item, ()) for item in versions]

    def get_alias(self, name: str, alias: str) -> Version | None:
        """The version that an alias points at."""
        number = self._alias_numbers(name).get(alias)
        return None if number is None else self.version(name, number)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias at a version, wherever it pointed before."""
        with self._asking(f"move the alias {alias} of {name}"):
            self._client.set_registered_model_alias(name, alias, str(version))

    def promote(
        self,
        name: str,
        version: int,
        *,
        expected_champion: int | None,
        tags: Mapping[str, str] | None = None,
    ) -> Version:
        """Make a version the champion, if the champion is still the one it was judged against.

        The old champion gets PREVIOUS_CHAMPION, so promoting that one is the way back. Promoting
        the champion changes no alias. Between processes MLflow offers no atomic move: two
        promotions of one model must not run at the same time.

        Args:
            name: The registered model.
            version: The version to promote.
            expected_champion: The champion that the caller saw; None for none.
            tags: Why: set on the version before the alias moves.

        Raises:
            UserError: The champion moved since the caller looked.
        """
        with _aliases:
            champion = self._alias_numbers(name).get(CHAMPION)
            if champion not in (expected_champion, version):
                raise UserError(
                    f"{name}: version {version} was judged against champion {expected_champion}, "
                    f"but the champion is now {champion}; evaluate it against that one"
                )
            self.tag_version(name, version, tags or {})
            if champion != version:
                if champion is not None:
                    self.set_alias(name, PREVIOUS_CHAMPION, champion)
                self.set_alias(name, CHAMPION, version)
        return self.version(name, version)

    def tag_version(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with self._asking(f"tag version {version} of {name}"):
            for key, value in tags.items():
                self._client.set_model_version_tag(name, str(version), key, value)

    def describe_version(self, name: str, version: int, text: str) -> None:
        """Show a text, in Markdown, on a version's page, instead of what stood there."""
        with self._asking(f"describe version {version} of {name}"):
            self._client.update_model_version(name, str(version), text)

    def download(self, name: str, which: int | str, folder: Path) -> Path:
        """The adapter file of a version or an alias, put into `folder` and verified.

        A file that is there and is the right one is not fetched again.

        Raises:
            UserError: There is no such version or alias.
            IntegrityError: The file is not the one that was registered.
        """
        found = self.version(name, which) if isinstance(which, int) else self.get_alias(name, which)
        if found is None:
            raise UserError(f"{name} has no version with the alias {which}")
        expected, path = found.tags.get(ADAPTER_TAG), folder / ADAPTER_FILE
        if path.is_file() and sha256_file(path) == expected:
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            with self._asking(f"fetch the adapter of {found.uri}"):
                source = self._client.get_model_version_download_uri(name, str(found.version))
                fetched = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{source}/{ADAPTER_PATH}",
                    dst_path=aside,
                    tracking_uri=self.tracking_uri,
                )
            if sha256_file(Path(fetched)) != expected:
                raise IntegrityError(f"the adapter of {found.uri} is not the one registered")
            copy_file(Path(fetched), path)
        return path

    def _upload(
        self, adapter_file: Path, run_id: str, *, serving: Serving, step: int
    ) -> LoggedModel:
        """Store the package as a model that the run made."""
        with self._asking("store the model"), tempfile.TemporaryDirectory() as scratch:
            experiment_id = self._client.get_run(run_id).info.experiment_id
            model = self._client.create_logged_model(
                experiment_id, name="adapter", source_run_id=run_id
            )
            identity = {
                "model_id": model.model_id,
                "run_id": run_id,
                "artifact_path": model.artifact_location,
            }
            package = write_package(Path(scratch), adapter_file, serving=serving, identity=identity)
            self._client.log_model_artifacts(model.model_id, str(package))
            self._client.finalize_logged_model(model.model_id, "READY")
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=step)])
            return model

    def _ensure_model(self, name: str) -> None:
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _alias_numbers(self, name: str) -> dict[str, int]:
        """Version by alias; empty for a model that is not there."""
        with self._asking(f"read the aliases of {name}"):
            try:
                model = self._client.get_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return {}
            return {alias: int(number) for alias, number in model.aliases.items()}


def lineage(card: AdapterCard) -> dict[str, str]:
    """A card as tags, for searching in MLflow."""
    told = {
        RUN_TAG: card.run,
        "cogvx.recipe": card.recipe,
        MANIFEST_TAG: card.manifest,
        "cogvx.base": card.base_path,
        "cogvx.base_revision": card.base_revision or "",
        "cogvx.base_fingerprint": card.base_fingerprint,
        "cogvx.rank": str(card.rank),
        "cogvx.alpha": str(card.alpha),
        "cogvx.steps": None if card.steps is None else str(card.steps),
    }
    return {name: text for name, text in told.items() if text is not None}


def _version(found: ModelVersion, aliases: tuple[str, ...] | None = None) -> Version:
    return Version(
        name=found.name,
        version=int(found.version),
        aliases=tuple(sorted(found.aliases)) if aliases is None else aliases,
        run_id=found.run_id or "",
        source=found.source,
        tags=dict(found.tags),
    )
