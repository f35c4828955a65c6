"""Look models up in the registry, move their aliases on a person's word, and fetch their files."""

import difflib
from pathlib import Path
from urllib.parse import quote

from cogvx import files
from cogvx.adapters.card import ADAPTER_FILE, read_card
from cogvx.digest import sha256_file
from cogvx.errors import ConfigError, IntegrityError, UserError
from cogvx.inference.model_ref import parse_reference
from tasks.clients.journal import AliasMove, Reason
from tasks.clients.registry import ADAPTER_TAG, CHAMPION, Registry, Version
from tasks.clients.runs import RUN_TAG
from tasks.clients.stores import open_record_store
from tasks.clients.versions import (
    APPROVAL_TAG,
    COMPARISONS_TAG,
    HELDOUT_TAG,
    OVERRIDE_TAG,
    RESULT_TAGS,
    REVIEW_BY_TAG,
    VERDICT_TAG,
)
from tasks.registry.model_documents import PullReport, VersionLine, VersionPage
from tasks.settings import settings

CARD_FILE = "adapter_card.json"
RECIPE_FILE = "recipe.toml"

_PROMOTABLE = ("PROMOTE", "HOLD")


def open_models() -> Registry:
    """The MLflow of this process's settings, with its journals."""
    here = settings()
    return Registry(here.mlflow_uri, here.mlflow_artifacts, open_record_store(here))


def find(registry: Registry, text: str) -> Version:
    """The version that a reference names; of a bare name the champion, or else the newest.

    Raises:
        ConfigError: There is none; the message says what there is.
    """
    asked = parse_reference(text)
    known = require_model(registry, asked.name)
    if asked.version is not None:
        numbers = {item.version for item in known}
        if asked.version not in numbers:
            raise ConfigError(
                f"{asked.name} has no version {asked.version}; it has {_some(numbers)}"
            )
        return registry.version(asked.name, asked.version)
    wanted = asked.alias or CHAMPION
    held = [item for item in known if wanted in item.aliases]
    if held:
        return held[0]
    if asked.alias is None:
        return known[0]
    aliases = sorted({alias for item in known for alias in item.aliases})
    closest = difflib.get_close_matches(asked.alias, aliases, n=1)
    use = f'did you mean "{closest[0]}"?' if closest else f"it has {', '.join(aliases) or 'none'}"
    raise ConfigError(f"{asked.name} has no alias {asked.alias}; {use}")


def require_model(registry: Registry, name: str) -> list[Version]:
    """All versions of a model, newest first.

    Raises:
        ConfigError: There are none; the closest name is suggested.
    """
    try:
        known = registry.versions(name) if parse_reference(name).name == name else []
    except ConfigError:  # what no model can be called is not asked for
        known = []
    if known:
        return known
    names = registry.model_names()
    closest = difflib.get_close_matches(name, names, n=1)
    use = f'did you mean "{closest[0]}"?' if closest else f"known: {', '.join(names) or 'none yet'}"
    raise ConfigError(f"the registry has no model {name}; {use}")


def list_models(name: str | None) -> list[VersionLine]:
    """Every version of one model or of all, newest first within each model."""
    registry = open_models()
    if name is not None:
        return [_line(item) for item in require_model(registry, name)]
    return [_line(item) for each in registry.model_names() for item in registry.versions(each)]


def show_version(text: str) -> VersionPage:
    """Everything about one version."""
    registry = open_models()
    found = find(registry, text)
    tags = dict(sorted(found.tags.items()))
    return VersionPage(
        line=_line(found),
        uri=found.uri,
        tags=tags,
        made_of={name: text for name, text in tags.items() if name not in RESULT_TAGS},
        became={
            name: text
            for name, text in tags.items()
            if text and name in RESULT_TAGS and name != COMPARISONS_TAG
        },
        metrics=registry.last_values(found.run_id),
        decisions=tuple(
            move for move in registry.history(found.name) if _is_about(move, found.version)
        ),
        is_settled=registry.is_settled(found.name),
        run_id=found.run_id,
        links=_links(registry, found),
    )


def promote_version(name: str, version: int, *, why: str, override: bool) -> AliasMove | None:
    """Make a version the champion on a person's word; None when it is the champion already.

    Raises:
        UserError: There is no reason, the verdict is against it and `override` is not set, or the
            champion moved meanwhile.
    """
    _require_reason(why)
    registry = open_models()
    found = find(registry, f"{name}/{version}")
    verdict = found.tags.get(VERDICT_TAG)
    if verdict not in _PROMOTABLE and not override:
        told = f"was judged {verdict}" if verdict else "was never judged"
        raise UserError(
            f"{name} version {version} {told}, so it is not promoted; to promote it all the same "
            "use --override-verdict, which is written down"
        )
    reason = Reason(
        why,
        run=found.tags.get(RUN_TAG),
        verdict=verdict,
        overruled=verdict != "PROMOTE",
    )
    champion = registry.aliases(name).get(CHAMPION)
    move = registry.crown(name, version, expected_champion=champion, reason=reason)
    if move is not None:
        tags = {APPROVAL_TAG: why, REVIEW_BY_TAG: move.who}
        tags |= {OVERRIDE_TAG: verdict or "never judged"} if move.overruled else {}
        registry.tag_version(name, version, tags)
    return move


def roll_back(name: str, *, why: str) -> AliasMove:
    """Make the previous champion the champion again, and the champion the previous one.

    Raises:
        UserError: There is no reason or no previous champion, or the champion moved meanwhile.
    """
    _require_reason(why)
    registry = open_models()
    require_model(registry, name)
    champion = registry.aliases(name).get(CHAMPION)
    return registry.roll_back(name, expected_champion=champion, reason=Reason(why))


def pull(text: str, folder: Path) -> PullReport:
    """Put a version's adapter, its card and its recipe into a folder; again changes nothing.

    Raises:
        ConfigError: The folder holds another adapter, which is left alone.
        IntegrityError: What was fetched is not what was registered.
    """
    registry = open_models()
    found = find(registry, text)
    expected = _digest(found)
    path = folder / ADAPTER_FILE
    is_there = path.is_file() and sha256_file(path) == expected
    if path.exists() and not is_there:
        raise ConfigError(f"{path} is another adapter and was left alone; name another folder")
    try:
        if not is_there:
            files.copy_file(fetch_adapter(registry, found), path)
        beside = _write_beside(registry, found, folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}") from error
    return PullReport(
        name=found.name,
        version=found.version,
        sha256=expected,
        adapter=str(path),
        files=(ADAPTER_FILE, *beside),
        fetched=not is_there,
    )


def fetch_adapter(registry: Registry, found: Version) -> Path:
    """A version's adapter file in this machine's work folder, verified; fetched if need be.

    Raises:
        IntegrityError: It is not what was registered, or the version does not say what that was.
    """
    _digest(found)
    folder = settings().work / "adapters" / f"{found.name}-{found.version}"
    return registry.download(found.name, found.version, folder)


def _digest(found: Version) -> str:
    expected = found.tags.get(ADAPTER_TAG)
    if expected is None:
        raise IntegrityError(f"{found.uri} does not say what its adapter's digest is")
    return expected


def _write_beside(registry: Registry, found: Version, folder: Path) -> list[str]:
    """The card as a file that people can read, and the recipe if the version has it."""
    written: list[str] = []
    card = read_card(folder / ADAPTER_FILE)
    texts: dict[str, bytes | None] = {
        CARD_FILE: None if card is None else (card.model_dump_json(indent=2) + "\n").encode(),
        RECIPE_FILE: registry.read_file(found, RECIPE_FILE),
    }
    for name, data in texts.items():
        if data is None:
            continue
        path = folder / name
        if path.exists() and path.read_bytes() != data:
            raise ConfigError(
                f"{path} is of something else and was left alone; name another folder"
            )
        if not path.exists():
            files.write_bytes(path, data)
        written.append(name)
    return written


def _line(found: Version) -> VersionLine:
    heldout = found.tags.get(HELDOUT_TAG)
    return VersionLine(
        name=found.name,
        version=found.version,
        aliases=found.aliases,
        verdict=found.tags.get(VERDICT_TAG),
        when=found.made,
        heldout=None if heldout is None else float(heldout),
        rank=found.tags.get("cogvx.rank"),
        steps=found.tags.get("cogvx.steps"),
    )


def _is_about(move: AliasMove, version: int) -> bool:
    return version in {move.version, *move.before.values(), *move.after.values()}


def pages_of(registry: Registry) -> str:
    """Where people see MLflow's pages; empty for a file, and for an address with a password."""
    server = (settings().mlflow_url or registry.tracking_uri).rstrip("/")
    return server if server.startswith(("http://", "https://")) and "@" not in server else ""


def _links(registry: Registry, found: Version) -> dict[str, str]:
    """Pages of an MLflow that is a server, and where the files lie."""
    links = {"files": found.source}
    if server := pages_of(registry):
        links["version"] = f"{server}/#/models/{quote(found.name)}/versions/{found.version}"
        links["run"] = f"{server}/#/runs/{found.run_id}"
    return links


def _require_reason(why: str) -> None:
    if not why.strip():
        raise UserError('a reason is needed: --why "..."; it is kept with the decision')


def _some(numbers: set[int]) -> str:
    shown = sorted(numbers, reverse=True)[:8]
    return ", ".join(map(str, shown)) + (", ..." if len(numbers) > len(shown) else "")
