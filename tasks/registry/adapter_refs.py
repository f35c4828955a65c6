"""Adapters as people name them, as files here: by path, by version, or by their bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cogvx.adapters.card import ADAPTER_FILE, read_card
from cogvx.adapters.container import read_header
from cogvx.adapters.layout import DIFFUSERS_KEY, KOHYA_PREFIXES, PREFIX, TORCH_SUFFIXES
from cogvx.digest import sha256_file
from cogvx.errors import ConfigError, IntegrityError, Problem, TransientError, UserError
from cogvx.inference.choices import FoundAdapter
from cogvx.inference.job import AskedAdapter
from cogvx.inference.model_ref import is_model, is_version, parse_reference
from cogvx.store import Absent, ObjectStore
from tasks.settings import Settings

_SUBJECT = "this cannot be generated"


@dataclass
class Faults:
    """Problems as they are found, so that none hides another."""

    problems: list[Problem] = field(default_factory=list)

    def add(self, where: str, error: UserError | IntegrityError) -> None:
        """What an error says, problem by problem where it has several."""
        if isinstance(error, ConfigError) and error.problems:
            self.problems += error.problems
        else:
            self.problems.append(Problem(where, None, f"cannot be used: {error}"))

    def require_none(self) -> None:
        """Raises ConfigError with all of them."""
        if self.problems:
            raise ConfigError(_SUBJECT, list({str(each): each for each in self.problems}.values()))


def adapter_key(sha256: str) -> str:
    """Where an adapter's file lies in the store."""
    return f"adapters/{sha256}/{ADAPTER_FILE}"


def bring_adapter(sha256: str, store: ObjectStore, here: Settings) -> Path:
    """The file of an adapter that the store has, on this machine.

    Raises:
        TransientError: It is not there; whoever plans work with it puts it there.
        IntegrityError: It is damaged.
    """
    try:
        path = store.fetch(adapter_key(sha256), here.work / "adapters" / sha256)
    except Absent as error:
        raise TransientError(f"{error}; run again, and it is put there anew") from error
    if sha256_file(path) != sha256:
        raise IntegrityError(f"{adapter_key(sha256)} in {store.url} is damaged; remove it")
    return path


def find_adapters(
    asked: Sequence[AskedAdapter], here: Settings, store: ObjectStore | None, faults: Faults
) -> tuple[FoundAdapter, ...]:
    """Those that are there; why the others are not is added to `faults`.

    Raises:
        TransientError: The registry or the store did not answer this time.
    """
    found = []
    for one in asked:
        try:
            if one.sha256 is not None and store is not None:
                found.append(_in_store(one, one.sha256, store, here))
            elif not is_model(one.ref):
                found.append(_in_file(one.ref, Path(one.ref).expanduser(), one.weight))
            elif is_version(one.ref):
                found.append(_in_registry(one, here))
        except (UserError, IntegrityError) as error:
            faults.add(f"adapter {one.ref}", error)
    return tuple(found)


def _in_file(name: str, path: Path, weight: float) -> FoundAdapter:
    """A file, or the file of an adapter's folder.

    Raises:
        ConfigError: There is none.
        IntegrityError: It is damaged, or does not record its alpha.
    """
    if path.is_dir() and not (path / ADAPTER_FILE).is_file():
        from cogvx.adapters.tensors import adapter_file  # noqa: PLC0415 - loads torch

        path = adapter_file(path)
    path = path / ADAPTER_FILE if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(
            f"there is no file {path}; a weight stands after the last colon, as in "
            "style.safetensors:0.6"
        )
    if path.suffix in TORCH_SUFFIXES:
        raise IntegrityError(
            f"{path} is a checkpoint of torch; convert it first: cogvx adapter convert"
        )
    header = read_header(path)
    if any(name.startswith(KOHYA_PREFIXES) for name in header.tensors):
        raise IntegrityError(f"{path} has kohya's names; convert it first: cogvx adapter convert")
    if any(not tensor.startswith(PREFIX) for tensor in header.tensors):
        raise IntegrityError(
            f"{path} is not in diffusers' form; convert it first: cogvx adapter convert"
        )
    if DIFFUSERS_KEY not in header.metadata:
        raise IntegrityError(
            f"{path} does not record its alpha, so nobody can tell how strong it was trained; "
            "convert it first: cogvx adapter convert"
        )
    return FoundAdapter(name, weight, path, sha256_file(path), read_card(path))


def _in_store(asked: AskedAdapter, sha256: str, store: ObjectStore, here: Settings) -> FoundAdapter:
    """The exact file, from the store.

    Raises:
        TransientError: It is not there.
        IntegrityError: It is damaged.
    """
    return _in_file(asked.ref, bring_adapter(sha256, store, here), asked.weight)


def _in_registry(asked: AskedAdapter, here: Settings) -> FoundAdapter:
    """The file of a registered version; of a bare name the champion, or else the newest.

    Raises:
        UserError: There is no such model, version or alias.
        IntegrityError: The file is not the one that was registered.
        TransientError: The registry did not answer this time.
    """
    if not here.is_tracked:
        raise ConfigError(
            "nothing was registered on this machine; set COGVX_TRACKING_URI to the MLflow that "
            "knows it"
        )
    from tasks.clients.registry import Registry  # noqa: PLC0415 - loads MLflow
    from tasks.registry.models import find  # noqa: PLC0415

    registry = Registry(here.mlflow_uri, here.mlflow_artifacts)
    held, meant = find(registry, asked.ref), parse_reference(asked.ref)
    folder = here.work / "adapters" / f"{held.name}-{held.version}"
    path = registry.download(held.name, held.version, folder)
    told = asked.ref if meant.version else f"{held.uri} ({meant.alias or 'by name'})"
    return replace(_in_file(asked.ref, path, asked.weight), name=told)
