"""What an adapter costs while videos are generated, and what it costs to change it.

    python -m tests.benchmarks.generation [--rounds 24] [--threads 1]

One model of 12 layers and 48 million parameters generates the same video bare, with an adapter
fused into its weights, and with the adapter beside them, in turns and in one process, so that what
else the machine does hits all three; on one thread, since several wait for each other on a busy
machine. Then adapters are swapped in it, and the whole session is opened again with the other
adapter, which is what one would do without us. Medians of the rounds' ratios, each with the
interval that holds the true median in 95 of 100 benchmarks. It ends with 1 when it misses what it
promises:

    fused     generation with a fused adapter over the bare base: at most 1.02
    swap      swapping an adapter, beside the weights or fused, over opening the session: under 1
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import comb
from pathlib import Path
from statistics import median

import torch

from cogvx.adapters.export import export_adapter
from cogvx.inference.request import Request, Sampling
from cogvx.inference.session import Session
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.shapes import VideoSize
from tests.adapters.toys import toy_card, trained
from tests.benchmarks.training import Took, mid_base, timed

RANK, ALPHA = 64, 32
REQUEST = Request(
    prompt="a large red circle moves left over a blue background",
    seed=1,
    size=VideoSize(9, 64, 96),
    fps=8,
    sampling=Sampling(steps=2, guidance=6.0, sampler="dpm"),
)
FUSED, SWAP = 1.02, 1.0
CHANGES = 12  # rounds of what takes seconds rather than a video

Rounds = Mapping[str, list[Took]]


def write_adapter(base: Path, folder: Path, seed: int) -> Path:
    adapted = trained(base, rank=RANK, alpha=ALPHA, seed=seed)
    card = toy_card(rank=RANK, alpha=ALPHA, base_fingerprint=fingerprint(base, BASE_PARTS))
    return export_adapter(adapted, folder, card=card)


def generations(session: Session, adapter: Path, rounds: int) -> Rounds:
    """The same video by each arm, in turns; how an arm is arranged is not timed."""

    def arrange(arm: str) -> None:
        if arm == "bare":
            return
        session.attach("style", adapter)
        session.use({"style": 1.0})
        if arm == "fused":
            session.fuse()

    found: dict[str, list[Took]] = {"bare": [], "fused": [], "beside": []}
    for turn in range(-1, rounds):  # the first chooses kernels and loads the text encoder
        for arm in sorted(found, reverse=turn % 2 == 1):
            arrange(arm)
            took = timed(partial(session.generate, REQUEST))
            session.unfuse()
            if arm != "bare":
                session.detach("style")
            if turn >= 0:
                found[arm].append(took)
    return found


def changes(
    session: Session, adapters: Sequence[Path], opened: Callable[[Path], Session]
) -> Rounds:
    """Another adapter: swapped beside the weights, swapped while fused, or all opened again."""
    session.attach("style", adapters[0])
    session.use({"style": 1.0})
    found: dict[str, list[Took]] = {"beside": [], "fused": [], "attach": [], "opened": []}
    for turn in range(CHANGES):
        other = adapters[(turn + 1) % 2]
        session.unfuse()
        found["beside"].append(timed(partial(session.swap, "style", other)))
        session.fuse()
        found["fused"].append(timed(partial(session.swap, "style", adapters[turn % 2])))
        session.unfuse()
        found["attach"].append(timed(partial(session.attach, "second", other)))
        session.detach("second")
        found["opened"].append(timed(partial(opened, other)))
    return found


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Where the true median lies, with 95 % confidence and whatever the distribution.

    Source: the sign test; as many ratios lie above the median as heads in fair throws.
    """
    count, tail, outside = len(ratios), 0.0, 0
    while outside < count // 2 and 2 * (tail + comb(count, outside) / 2**count) <= 0.05:
        tail += comb(count, outside) / 2**count
        outside += 1
    ordered = sorted(ratios)
    first = max(outside - 1, 0)
    return ordered[first], ordered[count - 1 - first]


def show(arm: str, rounds: Rounds, over: str, promise: str) -> float:
    """Print one arm's seconds and its ratio to another's; returns the median by the clock."""
    shown = []
    for clock in ("wall", "cpu"):
        ratios = [
            getattr(took, clock) / getattr(base, clock)
            for took, base in zip(rounds[arm], rounds[over], strict=True)
        ]
        low, high = interval(ratios)
        shown.append((median(ratios), f"{median(ratios):.3f} ({low:.3f} to {high:.3f})"))
    seconds = median(took.wall for took in rounds[arm])
    print(
        f"  {arm:<8}{seconds:8.3f} s   over {over} {shown[0][1]}{promise};"
        f" in processor time {shown[1][1]}",
        flush=True,
    )
    return shown[0][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = mid_base(folder / "base")
        known = fingerprint(base, BASE_PARTS)
        adapters = [write_adapter(base, folder / str(seed), seed) for seed in (1, 2)]

        def opened(adapter: Path) -> Session:
            session = Session.open(base, dtype="float32", fingerprint=known)
            session.attach("style", adapter)
            session.use({"style": 1.0})
            return session

        session = Session.open(base, dtype="float32", fingerprint=known)
        size = sum(each.numel() for each in session.transformer.parameters())
        steps = REQUEST.sampling.steps
        print(f"{size / 1e6:.1f} M parameters, rank {RANK}; {REQUEST.size} in {steps} steps")
        made = generations(session, adapters[0], asked.rounds)
        changed = changes(session, adapters, opened)
    show("bare", made, "bare", "")
    fused = show("fused", made, "bare", f"   at most {FUSED}")
    show("beside", made, "bare", "")
    print("another adapter")
    show("opened", changed, "opened", "")
    swaps = [show(arm, changed, "opened", f"   under {SWAP}") for arm in ("beside", "fused")]
    show("attach", changed, "opened", "")
    sys.exit(0 if fused <= FUSED and max(swaps) < SWAP else 1)


if __name__ == "__main__":
    main()
