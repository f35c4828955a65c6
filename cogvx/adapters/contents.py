"""What the names, shapes and metadata of an adapter file say, before one of its numbers is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cogvx.adapters.card import AdapterCard, card_of
from cogvx.adapters.container import REAL_NUMBERS
from cogvx.adapters.layout import AdapterForm, linear_modules, loaded_alpha
from cogvx.adapters.spelling import Spelling, StoredPair, blocks_of, spelling_of
from cogvx.adapters.strength import NOT_RECORDED, Recorded, settle
from cogvx.adapters.tensors import Tensors
from cogvx.adapters.weights import MAX_RANK
from cogvx.errors import IntegrityError

_ANY_PATCHING = 1  # counts the projection of patches as a layer, which it is in 1.5


@dataclass(frozen=True)
class Contents:
    """An adapter file sorted out, whatever base it is for.

    Attributes:
        form: Whose names it uses.
        pairs: Names of the matrices of each module that has both, in the model's order.
        ranks: Rank of each of those.
        blocks: How many transformer blocks the names reach.
        halves: Modules that have one of two matrices.
        odd: Modules whose matrices cannot be multiplied with each other, or are of no sane rank.
        unknown: Tensors that belong to no linear layer of a CogVideoX.
        recorded: What tells the alpha; `where` is NOT_RECORDED when nothing does.
        loaded_alpha: What diffusers applies; None when it loads nothing.
        doubts: What keeps the strength from being told, a sentence each.
        card: Ours, when the file has one.
    """

    form: AdapterForm
    pairs: Mapping[str, StoredPair]
    ranks: Mapping[str, int]
    blocks: int
    halves: tuple[str, ...]
    odd: tuple[str, ...]
    unknown: tuple[str, ...]
    recorded: Recorded
    loaded_alpha: float | None
    doubts: tuple[str, ...]
    card: AdapterCard | None

    @property
    def rank(self) -> int | None:
        """The largest of the pairs'; None without any."""
        return max(self.ranks.values(), default=None)

    @property
    def is_recorded(self) -> bool:
        """Whether something in the file tells its alpha."""
        return self.recorded.where != NOT_RECORDED

    def scale(self, module: str) -> float:
        """What a loader multiplies the module's product with; 1 where nothing says otherwise."""
        if not self.is_recorded and self.form != "sat":
            return 1.0
        return self.recorded.scale(module, self.ranks[module])


def contents_of(tensors: Tensors, file: Path) -> Contents:
    """Sort a file out.

    Raises:
        IntegrityError: It holds several adapters, or metadata that cannot be read.
    """
    spelling = spelling_of(file, tensors.infos)
    form: AdapterForm = "unknown" if spelling is None else spelling.form
    named = {} if spelling is None else _named(spelling, tensors)
    both = {
        module: names
        for module, names in named.items()
        if names.a in tensors.infos and names.b in tensors.infos
    }
    odd = tuple(module for module, names in both.items() if not _multiply(tensors, names))
    pairs = {module: names for module, names in both.items() if module not in odd}
    ranks = {module: tensors.infos[names.a].shape[0] for module, names in pairs.items()}
    recorded, unsettled = settle(tensors, pairs, file=file, form=form, said=None)
    assert recorded is not None  # it is None only for what a person says
    doubts = [str(problem) for problem in unsettled if problem.where != "--alpha"]
    loads_at = None
    if ranks and form == "diffusers":
        try:
            loads_at = loaded_alpha(tensors.metadata, max(ranks.values()))
        except IntegrityError as error:
            doubts.append(str(error))
    known = {name for names in named.values() for name in (names.a, names.b, names.alpha)}
    concerned = [name for name in tensors.infos if spelling is None or spelling.concerns(name)]
    return Contents(
        form=form,
        pairs=pairs,
        ranks=ranks,
        blocks=blocks_of(concerned),
        halves=tuple(module for module in named if module not in both),
        odd=odd,
        unknown=tuple(name for name in concerned if name not in known),
        recorded=recorded,
        loaded_alpha=loads_at,
        doubts=tuple(doubts),
        card=card_of(tensors.metadata, file),
    )


def _named(spelling: Spelling, tensors: Tensors) -> dict[str, StoredPair]:
    """What every linear layer's matrices would be called, of those that the file mentions."""
    modules = linear_modules(blocks_of(tensors.infos), patch_t=_ANY_PATCHING)
    found = {module: spelling.names(module) for module in modules}
    return {
        module: names
        for module, names in found.items()
        if names is not None and not tensors.infos.keys().isdisjoint((names.a, names.b))
    }


def _multiply(tensors: Tensors, names: StoredPair) -> bool:
    first, second = tensors.infos[names.a], tensors.infos[names.b]
    are_matrices = len(first.shape) == len(second.shape) == 2
    are_real = {first.dtype, second.dtype} <= REAL_NUMBERS
    return are_matrices and are_real and 0 < first.shape[0] == second.shape[1] <= MAX_RANK
