"""Which base model this is: its folder on this machine, and a name made from its bytes.

Nothing heavy is imported, so that a control machine can plan without a GPU stack.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from cogvx.addresses import without_passwords
from cogvx.errors import ConfigError, IntegrityError, Problem, TransientError
from cogvx.model.hashes import FileHashes

VAE_PARTS = ("vae",)
TEXT_PARTS = ("text_encoder", "tokenizer")
BASE_PARTS = ("transformer", "scheduler", "vae", "text_encoder", "tokenizer")

_CONTENT_SUFFIXES = (".json", ".safetensors", ".model", ".txt")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHOWN = 16
_BUSY = (408, 429, 500, 502, 503, 504)


def resolve_base(path: str, revision: str | None) -> Path:
    """Find a base model on this machine, downloading it from the hub if it is not there.

    Only configuration, safetensors and the tokenizer's files are downloaded.

    Args:
        path: A diffusers folder, or a hub id such as zai-org/CogVideoX-5b.
        revision: Commit, tag or branch of the hub repository; a folder has none.

    Raises:
        ConfigError: `path` is neither, or a folder was given a revision.
        TransientError: The hub is there but too busy to answer.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if revision is not None:
            problem = Problem(
                "base.revision", revision, "means nothing for a folder", "remove it or use a hub id"
            )
            raise ConfigError(str(problem))
        return folder
    if path.count("/") != 1 or path.startswith(("/", ".", "~")):
        raise ConfigError(str(Problem("base.path", path, "is not a folder on this machine")))
    wanted = [f"{part}/*{suffix}" for part in BASE_PARTS for suffix in _CONTENT_SUFFIXES]
    return download(path, revision, wanted=["model_index.json", *wanted], where="base.path")


def download(hub_id: str, revision: str | None, *, wanted: Sequence[str], where: str) -> Path:
    """Bring some files of a hub's repository to this machine, unless they are there.

    Args:
        hub_id: For example zai-org/CogVideoX-5b.
        revision: Commit, tag or branch.
        wanted: Patterns of the files.
        where: The setting that names the repository, for messages.

    Raises:
        ConfigError: The hub does not give it.
        TransientError: The hub is there but too busy to answer.
    """
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(wanted)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if _status(error) in _BUSY:
            raise TransientError(
                f"the hub is too busy to give {hub_id}: {_reason(error)}"
            ) from error
        wrong = f"is neither a folder nor a model that the hub can give: {_reason(error)}"
        raise ConfigError(str(Problem(where, hub_id, wrong))) from error


def fingerprint(folder: Path, parts: Sequence[str], *, hashes: FileHashes | None = None) -> str:
    """Hex sha256 over the names and bytes of configuration and weights below some subfolders.

    The same files give the same fingerprint wherever they lie; READMEs and what an interrupted
    writer left behind do not count.

    Args:
        folder: A diffusers folder.
        parts: Subfolders of it, all of which count.
        hashes: Knows what files hashed to before; without it every file is read.

    Raises:
        ConfigError: A subfolder is missing or holds nothing that counts.
    """
    hasher = hashlib.sha256()
    hashes = hashes or FileHashes()
    for part in sorted(parts):
        names = _content_files(folder / part)
        if not names:
            raise ConfigError(f"{folder} is not a complete CogVideoX model: {part}/ is missing")
        for path in names:
            name = path.relative_to(folder).as_posix()
            hasher.update(f"{name} {hashes.sha256(path)}\n".encode())
    return hasher.hexdigest()


def commit_of(folder: Path) -> str | None:
    """The commit that a base was downloaded at, whatever branch or tag was asked for.

    Source: huggingface_hub, whose cache keeps every commit in a folder named after it.
    """
    name = folder.name
    return name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(name) else None


def hub_id_of(folder: Path) -> str | None:
    """The hub id that a base was downloaded under; None for other folders.

    Source: huggingface_hub, whose cache keeps a model in `models--publisher--name/snapshots`.
    """
    if folder.parent.name != "snapshots":
        return None
    kind, _, name = folder.parent.parent.name.partition("--")
    return name.replace("--", "/", 1) if kind == "models" and "--" in name else None


def require_base(
    folder: Path,
    expected: str,
    *,
    revision: str | None = None,
    hashes: FileHashes | None = None,
) -> None:
    """Refuse a base whose bytes are not those that something was made for.

    Args:
        folder: What is about to be loaded.
        expected: The fingerprint that it must have.
        revision: The commit that had it, for the message.
        hashes: As for `fingerprint`.

    Raises:
        ConfigError: The folder holds no base at all.
        IntegrityError: It holds another one.
    """
    found = fingerprint(folder, BASE_PARTS, hashes=hashes)
    if found != expected:
        raise IntegrityError(
            f"{_base_in_words(str(folder), found, commit_of(folder))} is not"
            f" {_base_in_words('the base', expected, revision)} that this was made for; bring that"
            " one back, or begin anew over this one"
        )


def _base_in_words(name: str, found: str, revision: str | None) -> str:
    at = f", revision {revision}" if revision else ""
    return f"{name} (fingerprint {found[:_SHOWN]}{at})"


def _status(error: BaseException) -> int | None:
    """The hub's answer; a missing snapshot is reported with the answer as its cause."""
    for link in (error, error.__cause__):
        if isinstance(link, HfHubHTTPError):
            return link.response.status_code
    return None


def _reason(error: Exception) -> str:
    """The hub's own words without its advice, which follows in further lines.

    They hold its address, and a mirror's may hold a password.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return without_passwords(" ".join(lines[:2])) or type(error).__name__


def _content_files(part: Path) -> list[Path]:
    """Files that decide what a part computes, ordered by their names below it."""
    found = (
        path
        for path in part.rglob("*")
        if path.is_file() and path.suffix in _CONTENT_SUFFIXES and not path.name.startswith(".")
    )
    return sorted(found, key=lambda path: path.relative_to(part).as_posix())
