"""How strong a file's adapter was trained: what the file records, what a person says, and no guess.

peft multiplies with alpha over rank; alpha, rank and the square root in its place may differ by
module, and programs write them down in several places, or nowhere.

Source: peft `LoraConfig` and `LoraLayer.update_layer`; diffusers `_create_lora_config`.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvx.adapters.card import CARD_KEY
from cogvx.adapters.layout import DIFFUSERS_KEY, PEFT_ALPHA, PREFIX, AdapterForm
from cogvx.adapters.sat import SAT_ALPHA
from cogvx.adapters.spelling import StoredPair
from cogvx.adapters.tensors import Tensors
from cogvx.errors import IntegrityError, Problem

PEFT_CONFIG = "adapter_config.json"
NOT_RECORDED = "nothing in the file"

_TRAINER_KEY = "lora_config"  # finetrainers' own, which diffusers ignores
_KOHYA_ALPHA = "ss_network_alpha"
_MAX_CONFIG = 1 << 20
_MAX_PATTERNS = 2_000
_LONGEST = 60
_SHOWN_DIGITS = 20
_LARGEST = 1e9
_SHOWN = 4
_REGEX = re.compile(r"[\\*+?()\[\]{}|$]")


@dataclass(frozen=True)
class Recorded:
    """What a file, or a configuration beside it, says of its strength.

    Attributes:
        where: What says so, for messages.
        alpha: Of modules that no pattern names.
        rank: The same; None when it is not said.
        alphas: By the end of a module's name, the first that fits.
        ranks: The same.
        rooted: Scaled with alpha over the square root of the rank.
        doubts: What was trained otherwise than as a sum of two matrices' products.
    """

    where: str
    alpha: float
    rank: int | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    rooted: bool = False
    doubts: tuple[Problem, ...] = ()

    def alpha_of(self, module: str) -> float:
        """Alpha of one module."""
        return next((x for end, x in self.alphas.items() if _fits(end, module)), self.alpha)

    def rank_of(self, module: str) -> int | None:
        """Rank of one module, as recorded."""
        return next((x for end, x in self.ranks.items() if _fits(end, module)), self.rank)

    def scale(self, module: str, rank: int) -> float:
        """What the product of a module's matrices is multiplied with."""
        return self.alpha_of(module) / (math.sqrt(rank) if self.rooted else rank)


def settle(
    tensors: Tensors,
    stored: Mapping[str, StoredPair],
    *,
    file: Path,
    form: AdapterForm,
    said: float | None,
) -> tuple[Recorded | None, list[Problem]]:
    """Find out what an adapter's alpha is, from the file and from what a person says.

    Args:
        tensors: The file's.
        stored: Names of the matrices, and of the alphas that may stand beside them, by module.
        file: Where the tensors are.
        form: Whose names they have; SAT's alpha is 1 where nobody says otherwise.
        said: What a person says that it was trained with.

    Returns:
        What is known, and what keeps it from being known.

    Raises:
        IntegrityError: What the file records cannot be read.
    """
    if said is not None and not 0 < said < _LARGEST:
        return None, [Problem("--alpha", said, "is no alpha", "use a number above 0")]
    beside, problems = _beside(tensors, stored)
    recorded = beside or recorded_strength(file, tensors.metadata)
    if recorded is None and said is None and form != "sat":
        wrong = "is missing: nothing in the file records the alpha that it was trained with"
        use = "look it up in the training's settings: often 64 at rank 128, or the rank itself"
        problems.append(Problem("--alpha", None, wrong, use))
    if recorded is None:
        return Recorded(NOT_RECORDED, SAT_ALPHA if said is None else said), problems
    problems += [*recorded.doubts, *_rank_problems(recorded, stored, tensors)]
    alphas = sorted({recorded.alpha_of(module) for module in stored})
    if said is not None and alphas and alphas != [said]:
        told = ", ".join(f"{alpha:g}" for alpha in alphas[:_SHOWN])
        wrong = f"contradicts the file, whose {recorded.where} says {told}"
        if CARD_KEY in tensors.metadata:
            wrong += ", since what it was trained with is multiplied into it"
        problems.append(Problem("--alpha", said, wrong, "leave it out"))
    return recorded, problems


def _beside(
    tensors: Tensors, stored: Mapping[str, StoredPair]
) -> tuple[Recorded | None, list[Problem]]:
    """Alphas that stand as tensors beside their matrices."""
    names = {
        module: pair.alpha
        for module, pair in stored.items()
        if pair.alpha is not None and pair.alpha in tensors.infos
    }
    if not names:
        return None, []
    large = [name for name in names.values() if math.prod(tensors.infos[name].shape) != 1]
    if large:
        return None, [Problem(large[0], None, "is not one number, as an alpha is")]
    if lacking := sorted(stored.keys() - names.keys()):
        wrong = f"are there for {len(names)} of {len(stored)} modules, and not for {lacking[0]}"
        return None, [Problem("alphas", None, wrong)]
    where = "alpha beside each module"
    alphas = {module: _number(float(tensors.read(name)), where) for module, name in names.items()}
    usual = Counter(alphas.values()).most_common(1)[0][0]
    return Recorded(where, usual, alphas={f"^{name}": alphas[name] for name in alphas}), []


def _rank_problems(
    recorded: Recorded, stored: Mapping[str, StoredPair], tensors: Tensors
) -> list[Problem]:
    other = [
        module
        for module, names in stored.items()
        if names.a in tensors.infos
        and recorded.rank_of(module) not in (None, *tensors.infos[names.a].shape[:1])
    ]
    if not other:
        return []
    wrong = f"says rank {recorded.rank_of(other[0])}, and {other[0]} is of another"
    return [Problem(recorded.where, None, wrong)]


def recorded_strength(path: Path, metadata: Mapping[str, str]) -> Recorded | None:
    """What an adapter file or its neighbour says of its strength; None when neither says anything.

    Raises:
        IntegrityError: Something is said, but cannot be read.
    """
    if DIFFUSERS_KEY in metadata:
        document = _document(metadata[DIFFUSERS_KEY], f"{DIFFUSERS_KEY} of {path}")
        ours = {
            name.removeprefix(PREFIX): value
            for name, value in document.items()
            if name.startswith(PREFIX)
        }
        return _of_config(ours or document, DIFFUSERS_KEY)
    if _TRAINER_KEY in metadata:
        return _of_config(
            _document(metadata[_TRAINER_KEY], f"{_TRAINER_KEY} of {path}"), _TRAINER_KEY
        )
    if _KOHYA_ALPHA in metadata:
        try:
            return Recorded(_KOHYA_ALPHA, _number(float(metadata[_KOHYA_ALPHA]), _KOHYA_ALPHA))
        except ValueError as error:
            raise IntegrityError(f"{_KOHYA_ALPHA} of {path} is no number") from error
    beside = path.parent / PEFT_CONFIG
    if path.stem == "adapter_model" and beside.is_file():
        if beside.stat().st_size > _MAX_CONFIG:
            raise IntegrityError(f"{beside} is larger than a configuration")
        text = beside.read_text(encoding="utf-8", errors="replace")
        return _of_config(_document(text, str(beside)), PEFT_CONFIG)
    return None


def _document(text: str, where: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where} is not JSON") from error
    if not isinstance(document, dict):
        raise IntegrityError(f"{where} is no configuration")
    return document


def _of_config(config: Mapping[str, Any], where: str) -> Recorded:
    alphas, ranks = config.get("alpha_pattern") or {}, config.get("rank_pattern") or {}
    if not isinstance(alphas, dict) or not isinstance(ranks, dict):
        raise IntegrityError(f"{where} has patterns that cannot be read")
    doubts = []
    if config.get("use_dora"):
        wrong = "adds more to the weights than a product of two matrices, so it cannot be converted"
        doubts.append(Problem(f"{where}.use_dora", True, wrong))  # noqa: FBT003 - a value
    if len(alphas) + len(ranks) > _MAX_PATTERNS:
        raise IntegrityError(f"{where} has more patterns than a model has layers")
    expressions = [key for key in (*alphas, *ranks) if _REGEX.search(key) or not key.isprintable()]
    doubts += [
        Problem(f"{where} pattern", ascii(key)[1:-1][:_LONGEST], "is an expression, not a name")
        for key in expressions[:_SHOWN]
    ]
    rank = config.get("r")
    return Recorded(
        where=where,
        alpha=_number(config.get("lora_alpha", PEFT_ALPHA), where),
        rank=None if rank is None else int(_number(rank, where)),
        alphas={key: _number(value, where) for key, value in alphas.items()},
        ranks={key: int(_number(value, where)) for key, value in ranks.items()},
        rooted=config.get("use_rslora") is True,
        doubts=tuple(doubts),
    )


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise IntegrityError(f"{where} has an alpha or a rank that is no number")
    if not 0 < value < _LARGEST:  # a NaN fails
        raise IntegrityError(f"{where} has an alpha or a rank of {str(value)[:_SHOWN_DIGITS]}")
    return value


def _fits(end: str, module: str) -> bool:
    """As peft matches: the whole name after ^, else the end of it, at a dot."""
    if end.startswith("^"):
        return module == end[1:]
    return module == end or module.endswith(f".{end}")
