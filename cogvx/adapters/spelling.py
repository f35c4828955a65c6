"""How a file spells its tensors: which of the forms it is in, and what it calls the matrices.

A file's names are never taken apart. Its form gives the name that each module of the base would
have, and what is left over is of another base, or not understood.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cogvx.adapters.kohya import ALPHA, DOWN, UP, kohya_prefix, kohya_stem
from cogvx.adapters.layout import LORA_A, LORA_B, PREFIX, AdapterForm
from cogvx.adapters.sat import is_sat_matrix, sat_names, sat_prefixes
from cogvx.errors import IntegrityError

# Dotted names: A's end may carry peft's name of the adapter, as in lora_A.default.weight.
_DOTTED = re.compile(
    r"(?P<prefix>(?:\w+\.){0,8}?)transformer_blocks\.\d+\.[\w.]+?"
    r"(?P<end>\.lora_A(?:\.\w+)?\.weight|\.lora_down\.weight)"
)
_BLOCK = re.compile(
    r"(?:transformer_blocks|layers)[._](\d{1,3})[._]"
)  # a name may claim any number, and memory follows


@dataclass(frozen=True)
class StoredPair:
    """What a file calls the two matrices of a module, and its alpha if it keeps one beside them."""

    a: str
    b: str
    alpha: str | None = None


@dataclass(frozen=True)
class Spelling:
    """A form, and what varies within it: what stands before a name, and how A and B end."""

    form: AdapterForm
    prefix: str
    ends: tuple[str, str] = (LORA_A, LORA_B)

    def names(self, module: str) -> StoredPair | None:
        """What a module's matrices would be called; None when the form has no name for it."""
        if self.form == "sat":
            matrices = sat_names(self.prefix, module)
            return None if matrices is None else StoredPair(*matrices)
        stem = self.prefix + (kohya_stem(module) if self.form == "kohya" else module)
        return StoredPair(stem + self.ends[0], stem + self.ends[1], stem + ALPHA)

    def concerns(self, name: str) -> bool:
        """Whether a tensor must be understood: a checkpoint of SAT holds other models as well."""
        return is_sat_matrix(name) if self.form == "sat" else True


def spelling_of(path: Path, names: Iterable[str]) -> Spelling | None:
    """The one spelling of a file's tensors; None when it is of no form that is known.

    Raises:
        IntegrityError: The file holds two adapters.
    """
    names = list(names)
    prefix = kohya_prefix(names)
    found = set() if prefix is None else {Spelling("kohya", prefix, (DOWN, UP))}
    found |= {Spelling("sat", prefix) for prefix in sat_prefixes(names)}
    found |= {_dotted(match) for name in names if (match := _DOTTED.fullmatch(name))}
    if len(found) > 1:
        starts = ", ".join(sorted(f'"{spelling.prefix}" ({spelling.form})' for spelling in found))
        raise IntegrityError(f"{path} holds several adapters, whose names begin with {starts}")
    return next(iter(found), None)


def blocks_of(names: Iterable[str]) -> int:
    """How many blocks the names reach."""
    numbers = (int(found.group(1)) for name in names if (found := _BLOCK.search(name)))
    return max(numbers, default=-1) + 1


def _dotted(match: re.Match[str]) -> Spelling:
    prefix, end = match["prefix"], match["end"]
    ends = (DOWN, UP) if end == DOWN else (end, end.replace("lora_A", "lora_B", 1))
    plain = prefix == PREFIX and end == LORA_A
    return Spelling("diffusers" if plain else "unprefixed", prefix, ends)
