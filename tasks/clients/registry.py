"""The registry: versions of adapters, found by the run that made them, and the aliases on them.

Moving an alias is the only change that is ever made to what is registered; tags add to it.
"""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import mlflow.artifacts
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from cogvx.adapters.card import ADAPTER_FILE, read_card
from cogvx.digest import sha256_file
from cogvx.errors import IntegrityError, UserError
from cogvx.files import copy_file
from tasks.clients.aliases import CHALLENGER, CHAMPION, PREVIOUS_CHAMPION, Aliases
from tasks.clients.journal import Reason
from tasks.clients.package import ADAPTER_PATH, Serving, write_package
from tasks.clients.runs import RUN_TAG, Point
from tasks.clients.versions import ADAPTER_TAG, MANIFEST_TAG, Version, as_version, lineage

__all__ = [
    "ADAPTER_TAG",
    "CHALLENGER",
    "CHAMPION",
    "MANIFEST_TAG",
    "PREVIOUS_CHAMPION",
    "Point",
    "Reason",
    "Registry",
    "Serving",
    "Version",
]

_VERSIONS_AT_ONCE = 1000
_ABOUT = (
    "LoRA adapters for CogVideoX, a version for each retraining. `models:/{name}@champion` is the"
    " one to use; `challenger` is the newest. Each version's page says what it learned from and how"
    " it was judged."
)


class Registry(Aliases):
    """Versions of one MLflow server or SQLite file, beside its aliases and runs."""

    def find_version(self, name: str, run: str) -> Version | None:
        """The version that our run `run` made, if it was registered."""
        with self._asking(f"look for a version of {name}"):
            found = self._search(f"name = '{name}' and tags.`{RUN_TAG}` = '{run}'")
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
        reason: Reason | None = None,
    ) -> Version:
        """Make an adapter file a version with the alias CHALLENGER; once for each of our runs.

        A run that has a version already gets that version back; the alias is set only on the newest
        one that never had it, in case an earlier call was cut off before. A person who takes the
        alias away is not overruled. Of racing registrations of one run the first stays, and the
        others take themselves back. A newer version keeps the alias, however late an older one is.

        Args:
            name: The registered model, made if need be.
            adapter_file: An exported adapter, with its card.
            run_id: MLflow's run that trained it.
            serving: What the version generates with.
            tags: Added to those that the card gives.
            reason: Kept with the alias's move.

        Raises:
            IntegrityError: The file is no adapter of ours.
            TransientError: MLflow or the store did not answer this time.
        """
        card = read_card(adapter_file)
        if card is None or card.run is None:
            raise IntegrityError(f"{adapter_file} was not trained here, so it cannot be traced")
        reason = replace(reason or Reason("it is the newest"), run=card.run)
        known = self.find_version(name, card.run)
        if known is not None:
            self.settle(name)  # that call may have decided, and been cut off before MLflow heard
            if self._missed_its_alias(known):
                self.challenge(name, known.version, reason)
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
        self.challenge(name, int(made.version), reason)
        return self.version(name, int(made.version))

    def version(self, name: str, version: int) -> Version:
        """One version as it stands now.

        Raises:
            ConfigError: There is none.
        """
        with self._asking(f"find version {version} of {name}"):
            return as_version(self._client.get_model_version(name, str(version)))

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, newest first; none when the model is unknown."""
        with self._asking(f"list the versions of {name}"):
            found = self._search(f"name = '{name}'")
        return sorted(self._with_aliases(name, found), key=lambda item: -item.version)

    def all_versions(self) -> list[Version]:
        """All versions of all models of this server, whoever made them; aliases are left out."""
        with self._asking("list all versions"):
            return [as_version(item, ()) for item in self._search("")]

    def model_names(self) -> list[str]:
        """Every registered model of this server, whoever made it, by name."""
        with self._asking("list the models"):
            found = self._client.search_registered_models(max_results=_VERSIONS_AT_ONCE)
            names = [model.name for model in found]
            while found.token:
                found = self._client.search_registered_models(
                    max_results=_VERSIONS_AT_ONCE, page_token=found.token
                )
                names += [model.name for model in found]
        return sorted(names)

    def get_alias(self, name: str, alias: str) -> Version | None:
        """The version that an alias points at, be it one of ours or another."""
        number = self._alias_numbers(name).get(alias)
        return None if number is None else self.version(name, number)

    def promote(
        self,
        name: str,
        version: int,
        *,
        expected_champion: int | None,
        tags: Mapping[str, str] | None = None,
        reason: Reason | None = None,
    ) -> Version:
        """Make a version the champion, if the champion is still the one it was judged against.

        The old champion gets PREVIOUS_CHAMPION, for `roll_back`. Promoting the champion changes no
        alias.

        Args:
            name: The registered model.
            version: The version to promote.
            expected_champion: The champion that the caller saw; None for none.
            tags: Set on the version once it is the champion.
            reason: Kept with the move.

        Raises:
            UserError: The champion moved since the caller looked.
            TransientError: MLflow or the store did not answer this time.
        """
        self.crown(
            name,
            version,
            expected_champion=expected_champion,
            reason=reason or Reason("promoted by a program"),
        )
        self.tag_version(name, version, tags or {})
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

    def read_file(self, version: Version, name: str) -> bytes | None:
        """A small file that lies beside a version's model; None where it has none."""
        with self._asking(f"read {name} of {version.uri}"), tempfile.TemporaryDirectory() as aside:
            there = mlflow.artifacts.list_artifacts(
                artifact_uri=version.source, tracking_uri=self.tracking_uri
            )
            if name not in {item.path.rpartition("/")[2] for item in there}:
                return None
            fetched = mlflow.artifacts.download_artifacts(
                artifact_uri=f"{version.source}/{name}",
                dst_path=aside,
                tracking_uri=self.tracking_uri,
            )
            return Path(fetched).read_bytes()

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

    def _missed_its_alias(self, version: Version) -> bool:
        """Whether the newest version never was the challenger, as its registration was cut off.

        One that the journal says was, and that is not any more, was moved on purpose.
        """
        name, number = version.name, version.version
        with self._asking(f"look for versions of {name} after {number}"):
            newest = max(int(item.version) for item in self._search(f"name = '{name}'"))
        if number != newest or CHALLENGER in version.aliases:
            return False
        return all(move.after.get(CHALLENGER) != number for move in self.history(name))

    def _search(self, condition: str) -> list[ModelVersion]:
        """All versions that MLflow finds, page by page."""
        found = self._client.search_model_versions(condition, max_results=_VERSIONS_AT_ONCE)
        versions = list(found)
        while found.token:
            found = self._client.search_model_versions(
                condition, max_results=_VERSIONS_AT_ONCE, page_token=found.token
            )
            versions += found
        return versions

    def _with_aliases(self, name: str, found: Iterable[ModelVersion]) -> list[Version]:
        holders: dict[int, tuple[str, ...]] = {}
        for alias, number in sorted(self._alias_numbers(name).items()):
            holders[number] = (*holders.get(number, ()), alias)
        return [as_version(item, holders.get(int(item.version), ())) for item in found]

    def _ensure_model(self, name: str) -> None:
        try:
            self._client.create_registered_model(name, description=_ABOUT.format(name=name))
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
