"""Several adapters as one: the exact sum of what they add, or the nearest of a lower rank.

`sum_i w_i B_i A_i` is one product, of the B side by side, each times its weight, and the A on top
of each other; so the ranks add up and nothing is lost. The best matrix of a given rank comes from
the singular values, which those of a small core are: the product itself is never made.

Source: Eckart and Young, 1936, for the best approximation.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cogvx.adapters.card import ADAPTER_FILE, AdapterCard, library_versions, own_version
from cogvx.adapters.shares import Opened, Share, doubts, open_shares
from cogvx.adapters.weights import MAX_RANK, LoraPair, stacked
from cogvx.adapters.write import write_adapter
from cogvx.errors import ConfigError, IntegrityError, Problem

Progress = Callable[[int, int], None]
"""Is told how many layers of how many are done."""


@dataclass(frozen=True)
class Loss:
    """What a lower rank costs, in norms of weights: of what is to be added, and of what is lost."""

    whole: float
    lost: float

    @property
    def share(self) -> float:
        """Relative error in [0, 1]."""
        return self.lost / self.whole if self.whole else 0.0


@dataclass(frozen=True)
class Merged:
    """An adapter that was made of others.

    Attributes:
        path: The file.
        card: Its card, `origin` "merged".
        modules: Linear layers that it changes.
        exact_rank: What the parts' ranks in a layer add up to; the card has the one that was kept.
        loss: Over all layers together; nothing is lost at the exact rank.
        worst: The layer that lost the largest part of its own, and how much; None at the exact
            rank.
    """

    path: Path
    card: AdapterCard
    modules: int
    exact_rank: int
    loss: Loss
    worst: tuple[str, Loss] | None


def merge(
    shares: Sequence[Share],
    out: Path,
    *,
    rank: int | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Write the sum of adapters, each times its weight, as one adapter file that acts at 1.

    Args:
        shares: At least one; one alone is rescaled, or with `rank` made smaller.
        out: Folder of the new file, made if need be.
        rank: Reduce the sum to its best approximation of this rank; None keeps the exact sum.
        name: For the card; None takes that of `out`.
        progress: Called after each layer.

    Raises:
        ConfigError: There is such a file already, the adapters cannot be put together, or `rank`
            is above the sum's.
        IntegrityError: A file is damaged, or the layers do not fit each other.
    """
    if (out / ADAPTER_FILE).exists():
        raise ConfigError(f"{out / ADAPTER_FILE} exists already; name another folder")
    parts = open_shares(shares)
    modules = tuple(dict.fromkeys(module for part in parts for module in part.pairs))
    exact_rank = max(_exact_rank(module, parts) for module in modules)
    if rank is not None and not 1 <= rank <= exact_rank:
        problem = Problem(
            "--rank", rank, "is no rank of the sum", f"use 1 to {exact_rank}, which is exact"
        )
        raise ConfigError(str(problem))
    if (rank or exact_rank) > MAX_RANK:
        wrong = f"is missing: the exact sum is of rank {exact_rank}, above {MAX_RANK}"
        raise ConfigError(str(Problem("--rank", None, wrong, "use the width of the model at most")))
    is_exact = rank is None or rank == exact_rank
    pairs, losses = {}, {}
    for number, module in enumerate(modules, start=1):
        pairs[module] = added(module, parts)
        if rank is not None and not is_exact:
            pairs[module], losses[module] = reduced(pairs[module], rank)
        if progress is not None:
            progress(number, len(modules))
    worst = max(losses.items(), key=lambda item: item[1].share, default=None)
    loss = _together(losses.values())
    kept = max(pair.rank for pair in pairs.values())
    card = _card(parts, rank=kept, name=name or out.absolute().name, loss=loss)
    return Merged(
        path=write_adapter(pairs, out, card=card),
        card=card,
        modules=len(modules),
        exact_rank=exact_rank,
        loss=loss,
        worst=worst,
    )


def added(module: str, parts: Sequence[Opened]) -> LoraPair:
    """The sum of what adapters add to a layer, exact but for the rounding of `w B` in float32.

    Raises:
        IntegrityError: They take it to be of different widths, or float32 cannot hold the sum.
    """
    found = [(part.share, part.pairs[module]) for part in parts if module in part.pairs]
    shapes = {(pair.b_or.shape[0], pair.a_ri.shape[1]): share.file for share, pair in found}
    if len(shapes) > 1:
        said = ", ".join(f"{shape} in {file}" for shape, file in shapes.items())
        raise IntegrityError(f"{module} has different widths (outputs, inputs): {said}")
    pair = stacked([(share.weight, pair) for share, pair in found])
    if not pair.is_finite:
        raise IntegrityError(f"{module} is not finite with these weights; use smaller ones")
    return pair


def reduced(pair: LoraPair, rank: int) -> tuple[LoraPair, Loss]:
    """The nearest pair of at most that rank, in the sense of `||B A - B' A'||`, and what it costs.

    With `B = Q R` and `A' = P S`, the singular values of `B A` are those of the small `R S'`. The
    square roots of the values go to both sides, so that both keep their digits in half precision.
    """
    q_or, r_rr = _orthogonal(pair.b_or)
    p_ir, s_rr = _orthogonal(pair.a_ri.T)
    u, values, v_t = torch.linalg.svd(r_rr @ s_rr.T, full_matrices=False)
    roots = values[:rank].sqrt()
    nearest = LoraPair(
        a_ri=(roots[:, None] * (v_t[:rank] @ p_ir.T)).float().contiguous(),
        b_or=((q_or @ u[:, :rank]) * roots).float().contiguous(),
    )
    return nearest, Loss(whole=float(values.norm()), lost=float(values[rank:].norm()))


def _orthogonal(tall: Tensor) -> tuple[Tensor, Tensor]:
    """Reduced QR in float64: singular values far below the largest are wanted too."""
    q, r = torch.linalg.qr(tall.double())
    return q, r


def _exact_rank(module: str, parts: Sequence[Opened]) -> int:
    return sum(part.pairs[module].rank for part in parts if module in part.pairs)


def _together(losses: Iterable[Loss]) -> Loss:
    found = list(losses)
    return Loss(
        whole=math.hypot(*(loss.whole for loss in found)),
        lost=math.hypot(*(loss.lost for loss in found)),
    )


def _card(parts: Sequence[Opened], *, rank: int, name: str, loss: Loss) -> AdapterCard:
    """The card of the sum: what all parts agree on, and the parts."""
    cards = [part.card for part in parts]
    agreed = {
        field: values.pop()
        for field in ("base_revision", "base_fingerprint", "base_weights", "size", "fps")
        if len(values := {getattr(card, field) for card in cards}) == 1
    }
    lost = f"reduced to rank {rank}, which lost {loss.share:.2%} of what it adds"
    return AdapterCard(
        name=name,
        origin="merged",
        rank=rank,
        alpha=rank,
        targets=tuple(dict.fromkeys(target for card in cards for target in card.targets)),
        base_path=cards[0].base_path,
        base_dtype=cards[0].base_dtype,
        image_latent_scale=cards[0].image_latent_scale,
        parents=tuple(part.parent for part in parts),
        code=own_version(),
        warnings=(*doubts(cards), *((lost,) if loss.lost else ())),
        libraries=library_versions(),
        **{"base_fingerprint": None, **agreed},
    )
