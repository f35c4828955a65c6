"""How much of the bare encoders' speed is left when clips are fetched, decoded and stored as well.

    python -m tests.benchmarks.encoding [CLIPS] [--rounds N]

Both run in this process, in turns, on the same clips: bare, the VAE and T5 alone, on clips that are
decoded and captions that are tokenized already; ours, the whole way from mp4 files to records in a
folder. Loading the models is part of both. The encoders have random weights, the published form
and a quarter of the published VAE's width, so that encoding outweighs decoding as it does at real
size. Torch computes on one core; the other is there to decode on. The floor holds for the work as a
whole, clips and captions of a dataset, by the median of the rounds.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from cogvx.cache.plan import EMPTY_CAPTION, CachePlan, plan_cache
from cogvx.data.decode import decode_clip
from cogvx.data.manifest import Manifest
from cogvx.encoding import Encoders, encode_missing
from cogvx.model.load import load_text, load_vae
from cogvx.recipe import Recipe
from cogvx.shapes import VideoSize
from cogvx.store import LocalStore
from tests.benchmarks.bases import WIDE, build_base
from tests.cache.toys import recipe
from tests.data.clips import write_clip
from tests.encoding.benches import clip_of, encoders_of

SIZE = VideoSize(9, 96, 144)
SOURCE_HEIGHT, SOURCE_WIDTH = 180, 320
CAPTIONS_A_CLIP = 4
FLOOR = 0.90


@dataclass(frozen=True)
class World:
    """Clips in a folder, a base model, and what is to be made of them."""

    folder: Path
    clips: Path
    encoders: Encoders
    recipe: Recipe
    manifest: Manifest

    def plan(self, store: Path) -> CachePlan:
        return plan_cache(
            self.manifest,
            self.recipe,
            facts=self.encoders.facts,
            ids=self.encoders.ids,
            store=LocalStore(store),
        )


def make_world(folder: Path, count: int) -> World:
    clips = folder / "clips"
    for number in range(count):
        write_clip(
            clips / f"{number:03d}.mp4",
            height=SOURCE_HEIGHT,
            width=SOURCE_WIDTH,
            frames=SIZE.frames,
            seed=number + 1,
        )
    encoders = encoders_of(build_base(folder / "base", WIDE))
    made = recipe(video={"frames": SIZE.frames, "height": SIZE.height, "width": SIZE.width})
    found = [clip_of(path, clips, size=SIZE) for path in sorted(clips.iterdir())]
    # Several captions for each clip, which share its latents: T5 is fast at this width.
    windows = tuple(
        clip.model_copy(update={"caption": f"circle {number} of clip {clip.key} rests on red"})
        for clip in found
        for number in range(CAPTIONS_A_CLIP)
    )
    return World(folder, clips, encoders, made, Manifest(dataset=clips.as_uri(), clips=windows))


def ours(world: World, kind: str) -> None:
    """The clips or the captions of a plan, from files to records."""
    with tempfile.TemporaryDirectory(dir=world.folder) as store:
        plan = world.plan(Path(store))
        left_out = {"captions": ()} if kind == "clips" else {"clips": ()}
        encode_missing(
            plan.model_copy(update=left_out),
            world.recipe,
            encoders=world.encoders,
            dataset=LocalStore(world.clips),
            store=LocalStore(Path(store)),
            work=world.folder / "work",
            on_progress=lambda kind, done, total: None,
        )


@torch.no_grad()
def bare_vae(world: World, decoded: list[torch.Tensor]) -> None:
    vae = load_vae(world.encoders.folder, dtype="float32")
    for rgb_cfhw in decoded:
        vae.encode(rgb_cfhw[None]).latent_dist.parameters.isfinite().all().item()


@torch.no_grad()
def bare_t5(world: World, batches: list[torch.Tensor]) -> None:
    text = load_text(world.encoders.folder, dtype="float32")
    for ids_bs in batches:
        text.encoder(ids_bs)[0].isfinite().all().item()


def tokenized(world: World) -> list[torch.Tensor]:
    """All captions and the empty one in full batches, as a bare T5 would be fed."""
    text = load_text(world.encoders.folder, dtype="float32")
    captions = [EMPTY_CAPTION, *(clip.caption for clip in world.manifest.clips)]
    size = world.recipe.cache.prompt_batch
    captions += [EMPTY_CAPTION] * (-len(captions) % size)
    ids_bs: torch.Tensor = text.tokenizer(
        captions,
        padding="max_length",
        max_length=world.encoders.facts.text_tokens,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return list(ids_bs.split(size))


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def busy_seconds(work: Callable[[], None]) -> tuple[float, float]:
    """By the clock, and of this thread on its core: others on the machine disturb it less."""
    began = time.thread_time()
    return seconds(work), time.thread_time() - began


def compare(
    what: str, count: int, *, bare: Callable[[], None], full: Callable[[], None], rounds: int
) -> list[tuple[float, float]]:
    """Run both in turns and print rates and their ratios; returns seconds, bare and ours."""
    pairs = [(busy_seconds(bare), busy_seconds(full)) for _ in range(rounds)]
    clock = [first[0] / second[0] for first, second in pairs]
    core = [first[1] / second[1] for first, second in pairs]
    bare_s, full_s = (min(run[0] for run in column) for column in zip(*pairs, strict=True))
    print(
        f"{what:<9} bare {count / bare_s:6.2f}/s   ours {count / full_s:6.2f}/s   "
        f"ratio of the best {bare_s / full_s:.3f}\n"
        f"          median ratio by the clock {statistics.median(clock):.3f}"
        f" (rounds {', '.join(f'{ratio:.2f}' for ratio in clock)})"
        f"   of the encoding thread's core time {statistics.median(core):.3f}",
        flush=True,
    )
    return [(first[0], second[0]) for first, second in pairs]


def decode_speed(world: World) -> None:
    """How decoding scales over threads, which says how much of it holds Python's lock."""
    from concurrent.futures import ThreadPoolExecutor

    paths = sorted(world.clips.iterdir())
    read = partial(decode_clip, start_frame=0, size=SIZE, fps=8)
    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool:
            took = seconds(lambda pool=pool: list(pool.map(read, paths)))
        print(f"decoding  {len(paths) / took:6.2f} clips/s on {threads} thread(s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=int, nargs="?", default=24)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder), asked.clips)
        decoded = [
            decode_clip(path, start_frame=0, size=SIZE, fps=8)
            for path in sorted(world.clips.iterdir())
        ]
        batches = tokenized(world)
        print(f"{asked.clips} clips of {SIZE}, VAE {WIDE.vae}, T5 of width {WIDE.text}")
        decode_speed(world)
        parts = [
            compare(what, count, bare=bare, full=partial(ours, world, what), rounds=asked.rounds)
            for what, count, bare in (
                ("clips", len(decoded), partial(bare_vae, world, decoded)),
                ("captions", asked.clips * CAPTIONS_A_CLIP + 1, partial(bare_t5, world, batches)),
            )
        ]
    ratio = statistics.median(
        sum(bare_s for bare_s, _ in both) / sum(ours_s for _, ours_s in both)
        for both in zip(*parts, strict=True)
    )
    print(f"both      median ratio by the clock {ratio:.3f} (at least {FLOOR:.2f})")
    sys.exit(ratio < FLOOR)


if __name__ == "__main__":
    main()
