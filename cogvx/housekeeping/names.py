"""The kind of every object in a store, told by its name alone; what has another name is not ours.

Listing names costs one request for a thousand objects, reading them a thousand requests.
"""

import re
from typing import Literal, get_args

Kind = Literal[
    "latents",
    "images",
    "prompts",
    "videos",
    "heldout",
    "drift",
    "scores",
    "features",
    "proofs",
    "adapters",
    "evaluations",
    "indexes",
    "plans",
    "manifests",
    "pointers",
    "runs",
    "resumes",
    "checkpoints",
    "probes",
    "tilings",
    "speeds",
    "pages",
    "decisions",
    "arrivals",
    "costs",
    "marks",
    "generated",
    "leftovers",
    "other",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
RECORDS: tuple[Kind, ...] = ("latents", "images", "prompts")

_DIGEST = "[0-9a-f]{64}"
_HALF = "[0-9a-f]{32}"
_PLACES: dict[Kind, str] = {
    "latents": r"records/latents/FAN\.safetensors",
    "images": r"records/images/FAN\.safetensors",
    "prompts": r"records/prompts/FAN\.safetensors",
    "videos": r"videos/FAN\.mp4",
    "heldout": r"heldout/FAN\.json",
    "drift": r"drift/FAN\.json",
    "scores": r"scores/FAN\.json",
    "features": r"features/FAN",
    "proofs": r"proofs/FAN\.json",
    "adapters": rf"adapters/{_DIGEST}/[\w.-]+",
    "evaluations": rf"runs/{_DIGEST}/evaluations/{_DIGEST}\.json",
    "indexes": rf"indexes/{_DIGEST}\.json",
    "plans": rf"plans/(?:{_DIGEST}\.json|images/{_DIGEST}\.png)|shards/[0-9a-f-]{{36}}\.json",
    "manifests": rf"manifests/{_HALF}/{_DIGEST}\.json",
    "pointers": rf"manifests/{_HALF}/(?:latest|change\.json)",
    "runs": rf"runs/{_DIGEST}/(?:run|outcome)\.json",
    "resumes": rf"runs/{_DIGEST}/latest\.json",
    "checkpoints": rf"runs/{_DIGEST}/checkpoints/step-\d{{8}}/[a-z0-9_]+\.(?:safetensors|json)",
    "probes": rf"probes/{_DIGEST}\.json",
    "tilings": rf"tilings/{_HALF}/[0-9x]+\.json",
    "speeds": r"speeds/[a-z0-9.-]+\.json",
    "pages": rf"pages/{_DIGEST}/{_DIGEST}\.html",
    "decisions": r"registry/[^/\n]+/\d+/(?:\d{8}\.json|hands/\d{8}-[0-9a-f]{12})",
    "arrivals": rf"arrivals/{_HALF}/\d{{8}}\.(?:json|sent)",
    "costs": rf"costs/[a-z0-9-]+/(?:attempts/{_HALF}|sums/\d{{8}})\.json",
    "marks": r"retention/marks\.json",
    "generated": r"generated/[\w.-]+/(?:job\.json|index\.(?:jsonl|html)|(?:videos|images)/[\w.-]+)",
    # as `cogvx.files` names what it writes aside
    "leftovers": r"(?:[^/\n]+/)*\.aside-[0-9a-f]{12}-[^/\n]+",
}


def _fanned(kind: Kind, place: str) -> str:
    """The place with FAN filled in: a digest, below a folder of its first two digits."""
    return place.replace("FAN", rf"(?P<{kind}_fan>[0-9a-f]{{2}})/(?P={kind}_fan)[0-9a-f]{{62}}")


# The group around a place closes last, so `lastgroup` is the kind.
_NAMES = re.compile(
    "|".join(f"(?P<{kind}>{_fanned(kind, place)})" for kind, place in _PLACES.items()), re.ASCII
)


_BY_NAME: dict[str | None, Kind] = {kind: kind for kind in KINDS}


def kind_of(key: str) -> Kind:
    """What kind of object has this name; `other` for names that nothing of ours has."""
    found = _NAMES.fullmatch(key)
    return _BY_NAME.get(found.lastgroup, "other") if found else "other"


def name_of(key: str) -> str:
    """The last part of a key without its suffix: the digest, of everything that has one."""
    return key.rpartition("/")[2].partition(".")[0]


def folder_of(key: str) -> str:
    """The second part of a key: which dataset a manifest is of, which run made an outcome."""
    return key.split("/")[1]


def is_digest(text: str) -> bool:
    """Whether a text is a sha256 in hex, as all our digests are."""
    return re.fullmatch(_DIGEST, text, re.ASCII) is not None
