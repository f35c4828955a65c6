"""Where networks lie and whether all their files are there; no network is loaded to know it.

A network is a folder, or a repository of the hub pinned by its commit: another commit under the
same name would change every number, unnoticed.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cogvx.errors import ConfigError, Problem
from cogvx.metrics.learned import ENCODER_KINDS
from cogvx.section import shown_text

NETWORK_FILES = ("config.json", "model.safetensors")
TOKENIZER = "tokenizer.json"
HEAD = "head.safetensors"
TEXT_KINDS = ("clip", "siglip2")
SETTING = "evaluation.encoders."
# What config.json calls the networks of each kind; those that only see have no half that reads.
_TYPES = {
    "dino": ("vit",),
    "dinov2": ("dinov2",),
    "clip": ("clip", "clip_vision_model"),
    "siglip2": ("siglip", "siglip_vision_model"),
    "aesthetic": ("clip", "clip_vision_model"),
}

_HUB = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})@([0-9a-f]{40})", re.ASCII)
_LOOSE_HUB = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@.*)?", re.ASCII)


def encoder_problems(
    encoders: Mapping[str, str],
    *,
    where: str = SETTING,
    texts: bool = True,
    absent_is_fine: bool = False,
) -> list[Problem]:
    """What is wrong with the networks that a recipe names, without asking the hub.

    Args:
        encoders: Folders, or hub ids with a commit, by kind.
        where: What stands before a kind in messages.
        texts: Networks will read texts, where their kind does.
        absent_is_fine: Folders may be missing on this machine.
    """
    problems = []
    for kind, named in encoders.items():
        place = where + kind
        if kind not in ENCODER_KINDS:
            use = f"use one of {', '.join(ENCODER_KINDS)}"
            problems.append(Problem(place, None, "is of no kind", use))
            continue
        path = local_path(named)
        may_be_absent = absent_is_fine and named and not _LOOSE_HUB.fullmatch(named)
        if path is not None:
            problems += missing_files(kind, path, where=place, beside=encoders, texts=texts)
        elif not _HUB.fullmatch(named) and not may_be_absent:
            problems.append(_unresolved(place, named))
    return problems


def missing_files(
    kind: str, path: Path, *, where: str, beside: Iterable[str] = TEXT_KINDS, texts: bool = True
) -> list[Problem]:
    """Which files of a kind a folder lacks.

    Args:
        kind: dino, dinov2, clip, siglip2 or aesthetic.
        path: The folder; of an aesthetic head also its file.
        where: What names it, for messages.
        beside: Kinds of the other networks: a head without its own CLIP takes theirs.
        texts: The network will read texts, where its kind does.
    """
    wanted = list(NETWORK_FILES)
    if kind == "aesthetic":
        if path.is_file():
            return _head_problems(path, where, beside)
        wanted = [HEAD, *(NETWORK_FILES if own_network(path) else ())]
    elif kind in TEXT_KINDS and texts:
        wanted.append(TOKENIZER)
    missing = [name for name in wanted if not (path / name).is_file()]
    if missing:
        use = "bring the files into it; nothing is unpickled, so weights must be safetensors"
        wrong = f"has no {' and no '.join(missing)}"
        return [Problem(where, shown_text(str(path)), wrong, use)]
    if kind == "aesthetic" and not own_network(path):
        return _head_problems(path / HEAD, where, beside)
    types = _TYPES[kind]
    return _type_problems(path, where, types[:1] if TOKENIZER in wanted else types)


def own_network(folder: Path) -> bool:
    """Whether a head's folder brings a CLIP as well."""
    return folder.is_dir() and any((folder / name).is_file() for name in NETWORK_FILES)


def resolve_encoder(kind: str, named: str, *, where: str = SETTING) -> Path:
    """Find a network on this machine, downloading it from the hub if it is not there.

    Raises:
        ConfigError: It is neither a folder nor a commit that the hub gives.
        TransientError: The hub is there but too busy to answer.
    """
    path = local_path(named)
    if path is not None:
        return path
    pinned = _HUB.fullmatch(named)
    place = where + kind
    if pinned is None:
        raise ConfigError(str(_unresolved(place, named)))
    from cogvx.model.identity import download  # noqa: PLC0415 - the hub's client loads slowly

    wanted = [*NETWORK_FILES, TOKENIZER, HEAD]
    return download(pinned[1], pinned[2], wanted=wanted, where=place)


def local_path(named: str) -> Path | None:
    """The folder or file of that name, if there is one."""
    if not named:
        return None  # which would be the working directory
    try:
        path = Path(named).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, nobody's home
        return None


def _unresolved(where: str, named: str) -> Problem:
    shown = shown_text(named)
    if _LOOSE_HUB.fullmatch(named):
        wrong = "is neither a folder on this machine nor pinned by a commit"
        use = f"use {named.partition('@')[0]}@ and the 40 digits of the commit"
        return Problem(where, shown, wrong, use)
    wrong = "is not a folder on this machine"
    return Problem(where, shown, wrong, "use one, or publisher/name@commit of the hub")


def _type_problems(folder: Path, where: str, types: Sequence[str]) -> list[Problem]:
    """That the folder is another network's, which transformers would load all the same."""
    try:
        config = json.loads((folder / NETWORK_FILES[0]).read_text(encoding="utf-8"))
        found = config.get("model_type") if isinstance(config, dict) else None
    except (OSError, ValueError) as error:
        wrong = f"has a config.json that cannot be read: {error}"
        return [Problem(where, shown_text(str(folder)), wrong)]
    if found in types:
        return []
    wrong = f"holds a network of the type {shown_text(str(found))}, not {' or '.join(types)}"
    return [Problem(where, shown_text(str(folder)), wrong, "use another folder or kind")]


def _head_problems(path: Path, where: str, beside: Iterable[str]) -> list[Problem]:
    """What is wrong with a head that brings no CLIP of its own."""
    shown = shown_text(str(path))
    if path.suffix != ".safetensors":
        wrong = "is no safetensors file, and nothing is unpickled"
        use = "store its weight and bias with safetensors.torch.save_file"
        return [Problem(where, shown, wrong, use)]
    if "clip" not in beside:
        wrong = "is a head alone, and no clip is named whose features it reads"
        use = f"put config.json and model.safetensors of its CLIP beside it, as {HEAD}"
        return [Problem(where, shown, wrong, use)]
    return []
