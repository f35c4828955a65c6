"""Adapter files of every program that is known, read into pairs of matrices at strength 1.

The base's configuration says which modules there are and how large they are; a file that does not
fit it is refused with everything that is wrong, before one of its numbers is read.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cogvx.adapters.card import AdapterCard, card_of, strength_problem
from cogvx.adapters.container import REAL_NUMBERS
from cogvx.adapters.layout import AdapterForm, adapted_modules
from cogvx.adapters.linears import LinearSize, linear_sizes, local_name
from cogvx.adapters.sat import SAT_TARGETS
from cogvx.adapters.spelling import Spelling, StoredPair, blocks_of, spelling_of
from cogvx.adapters.strength import NOT_RECORDED, Recorded, settle
from cogvx.adapters.tensors import Tensors, adapter_file, open_tensors
from cogvx.adapters.weights import MAX_RANK, LoraPair, Pairs
from cogvx.errors import ConfigError, IntegrityError, Problem
from cogvx.variants import BaseFacts

_SHOWN = 8
_ATTENTION = "attn1."


@dataclass(frozen=True)
class Foreign:
    """An adapter as a file holds it, whoever wrote the file.

    Attributes:
        file: The file itself, where a folder was named.
        form: Whose names it uses.
        pairs: Its matrices, strength multiplied into B.
        targets: Ends of names that select exactly its modules.
        rank: The largest of its pairs'.
        alpha: The usual one; what was said where the file records none.
        recorded: What in the file tells its alpha; None when nothing does.
        card: Ours, when we wrote the file.
        norms: By module, the norm of scale x B A, in float64 from the numbers as they are stored.
        notes: What a person should know of it, a sentence each.
    """

    file: Path
    form: AdapterForm
    pairs: Pairs
    targets: tuple[str, ...]
    rank: int
    alpha: float
    recorded: str | None
    card: AdapterCard | None
    norms: Mapping[str, float]
    notes: tuple[str, ...]

    @property
    def norm(self) -> float:
        """Of everything that it adds to the weights."""
        return math.sqrt(sum(norm**2 for norm in self.norms.values()))


def read_any(path: Path, *, alpha: float | None, facts: BaseFacts) -> Foreign:
    """Read an adapter of any known form, for a base.

    Args:
        path: A safetensors file, a checkpoint of torch.save, or the folder that either lies in.
        alpha: What it was trained with, for files that do not record it; SAT's is 1 otherwise.
        facts: Of the base that it is for; its configuration is enough.

    Raises:
        ConfigError: It does not fit the base, nothing says its alpha, or `alpha` contradicts what
            does; with all problems.
        IntegrityError: The file is damaged, would run code, or holds numbers that are not finite.
    """
    file = adapter_file(path)
    with open_tensors(file) as tensors:
        spelling = spelling_of(file, tensors.infos)
        if spelling is None:
            raise ConfigError(f"{file} holds no LoRA of a CogVideoX in a form that is known")
        stored = _stored(tensors, spelling, facts)
        problems = list(_fit_problems(tensors, spelling, stored=stored, facts=facts))
        form = spelling.form
        recorded, unsettled = settle(tensors, stored, file=file, form=form, said=alpha)
        problems += unsettled
        if recorded is not None and card_of(tensors.metadata, file) is not None:
            problems += _carded_problems(tensors, stored, recorded)
        if recorded is None or problems:
            raise ConfigError(f"{file} ({form}) over {facts.variant.name}", problems)
        return _read(file, tensors, form=form, stored=stored, recorded=recorded)


def _stored(tensors: Tensors, spelling: Spelling, facts: BaseFacts) -> dict[str, StoredPair]:
    """The base's modules that the file has a matrix for, with the names that those would have."""
    named = {module: spelling.names(module) for module in linear_sizes(facts)}
    return {
        module: names
        for module, names in named.items()
        if names is not None and (names.a in tensors.infos or names.b in tensors.infos)
    }


def _targets(stored: Mapping[str, StoredPair], form: AdapterForm) -> tuple[str, ...]:
    """Ends of names, in the model's order; those of attention as everybody writes them."""
    if form == "sat":
        return SAT_TARGETS
    return tuple(dict.fromkeys(local_name(name).removeprefix(_ATTENTION) for name in stored))


def _fit_problems(
    tensors: Tensors, spelling: Spelling, *, stored: Mapping[str, StoredPair], facts: BaseFacts
) -> Iterator[Problem]:
    """What keeps the file from being an adapter of the base, told from names and shapes."""
    targets = _targets(stored, spelling.form)
    modules = adapted_modules(facts.layers, targets, patch_t=facts.patch_t)
    expected = [names for module in modules if (names := spelling.names(module))]
    wanted = [name for names in expected for name in (names.a, names.b)]
    if missing := [name for name in wanted if name not in tensors.infos]:
        where = f"{len(missing)} of {len(wanted)} tensors"
        yield Problem(where, None, f"are missing: {_some(missing)}")
    known = {*wanted, *(names.alpha for names in expected)}
    concerned = [name for name in tensors.infos if spelling.concerns(name)]
    if unknown := [name for name in concerned if name not in known]:
        yield Problem(f"{len(unknown)} tensors", None, f"belong to no module: {_some(unknown)}")
    reached = blocks_of(concerned)
    if reached != facts.layers:
        wrong = f"is not what {facts.variant.name} has here, which is {facts.layers}"
        yield Problem("layers", reached, wrong, "name the base that it was trained on")
    sizes = linear_sizes(facts)
    faults: dict[str, list[str]] = {}
    for module, names in stored.items():
        if names.a in tensors.infos and names.b in tensors.infos:
            for name, wrong in _faults(tensors, names, sizes[module]):
                faults.setdefault(wrong, []).append(name)
    for wrong, faulty in faults.items():
        others = f" (and {len(faulty) - 1} more)" if len(faulty) > 1 else ""
        yield Problem(f"{faulty[0]}{others}", None, wrong)


def _faults(tensors: Tensors, names: StoredPair, size: LinearSize) -> Iterator[tuple[str, str]]:
    """Tensors of a pair that cannot be beside a layer of that size, and how they are wrong."""
    first, second = tensors.infos[names.a], tensors.infos[names.b]
    for name, info in ((names.a, first), (names.b, second)):
        if info.dtype not in REAL_NUMBERS:
            yield name, f"is of {info.dtype}, which no adapter is"
    fits = len(first.shape) == len(second.shape) == 2 and first.shape[0] == second.shape[1] > 0
    if not fits or first.shape[1] != size.inputs or second.shape[0] != size.outputs:
        wrong = (
            f"is {_shape(first.shape)} and its partner {_shape(second.shape)}, where the base "
            f"needs rank x {size.inputs} and {size.outputs} x rank"
        )
        yield names.a, wrong
    elif first.shape[0] > MAX_RANK:
        yield names.a, f"is of rank {first.shape[0]}, above {MAX_RANK}"


def _carded_problems(
    tensors: Tensors, stored: Mapping[str, StoredPair], recorded: Recorded
) -> list[Problem]:
    """Why a file with our card does not act at the strength that the card promises."""
    ranks = {
        module: tensors.infos[names.a].shape[0]
        for module, names in stored.items()
        if names.a in tensors.infos and tensors.infos[names.a].shape[:1] > (0,)
    }
    said = (strength_problem(recorded.scale(module, rank)) for module, rank in ranks.items())
    return [Problem(recorded.where, None, wrong) for wrong in said if wrong][:1]


def _read(
    file: Path,
    tensors: Tensors,
    *,
    form: AdapterForm,
    stored: Mapping[str, StoredPair],
    recorded: Recorded,
) -> Foreign:
    pairs, norms = {}, {}
    for module, names in stored.items():
        a_ri, b_or = tensors.read(names.a).detach(), tensors.read(names.b).detach()
        scale = recorded.scale(module, a_ri.shape[0])
        pairs[module] = LoraPair(_plain(a_ri), _plain(b_or) * scale)
        norms[module] = scale * _norm(a_ri, b_or)
    finite = {name: math.isfinite(norm) and pairs[name].is_finite for name, norm in norms.items()}
    if broken := [name for name, is_finite in finite.items() if not is_finite]:
        raise IntegrityError(f"{file}: {len(broken)} layers are not finite: {_some(broken)}")
    ranks = Counter(pair.rank for pair in pairs.values())
    # what alpha / rank is the strength of, also where it was alpha over the rank's square root
    alphas = Counter(_alpha(recorded, module, pair.rank) for module, pair in pairs.items())
    notes = []
    if len(ranks) > 1:
        notes.append(f"its ranks differ from {min(ranks)} to {max(ranks)}; the lower are padded")
    if len(alphas) > 1:
        notes.append(f"its alphas differ from {min(alphas):g} to {max(alphas):g}; each is applied")
    if recorded.rooted:
        notes.append("it was trained at alpha over the rank's root; alpha is what gives that")
    return Foreign(
        file=file,
        form=form,
        pairs=pairs,
        targets=_targets(stored, form),
        rank=max(ranks),
        alpha=alphas.most_common(1)[0][0],
        recorded=None if recorded.where == NOT_RECORDED else recorded.where,
        card=card_of(tensors.metadata, file),
        norms=norms,
        notes=tuple(notes),
    )


def _alpha(recorded: Recorded, module: str, rank: int) -> float:
    return recorded.alpha_of(module) * (math.sqrt(rank) if recorded.rooted else 1.0)


def _plain(tensor: Tensor) -> Tensor:
    """A copy in float32: the file may change or go."""
    return torch.empty(tensor.shape, dtype=torch.float32).copy_(tensor)


def _norm(a_ri: Tensor, b_or: Tensor) -> float:
    """`||B A||`, by way of the two small squares, which never makes the large product."""
    a_ri, b_or = a_ri.double(), b_or.double()
    square = float(((b_or.T @ b_or) * (a_ri @ a_ri.T)).sum())
    return square if math.isnan(square) else math.sqrt(max(square, 0.0))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
