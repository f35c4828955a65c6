"""What an evaluation takes besides generating: scoring, comparing, keeping, and the report.

    python -m tests.benchmarks.evaluation [--prompts 4] [--size 49x480x720] [--steps 10]

A real evaluation from its start to its pages, without a server: base and challenger on every prompt
with two seeds, held-out losses, drift, the proof before rendering, scores, verdict and report. The
videos are of full size, and so are the latents that the transformer reads: 17,550 tokens. Its width
is a toy's, and so is the VAE's, so that one video takes a core about as long as the published
models take an H100: 45 s for 2b, 90 s for 5b, ten minutes for 1.5. That is what makes the share
mean something; how long a video took here is printed, and the shares at 45 and 90 s beside it.
Times are the processor's, of one thread: what they are by the wall where nothing else runs.

What a toy draws is noise, which no coder packs and no page holds: once it has been generated, a
drawn clip takes its place, and that exchange is left out of all times.

Networks' own work is generation and the passes for losses and drift. Everything else counts against
us, on the same core and by the same clock: coding the mp4s, loading the model, scoring, the report.
There are no encoders, whose time would count for us. What swaps of adapters cost is in
tests.benchmarks.generation. It ends with 1 when it misses what it promises:

    share     of the evaluation's time, what is no network's: under 0.10
    again     scoring and comparing what was scored before, over the first time: under 0.2
"""

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

from cogvx.cache.plan import Identities, latent_key, prompt_key
from cogvx.cache.records import pack_latents, pack_prompt
from cogvx.data.manifest import Manifest
from cogvx.evaluation.render import Arm
from cogvx.evaluation.report import write_report
from cogvx.evaluation.suite import Suite
from cogvx.inference.batch import AdapterAtWeight
from cogvx.inference.session import Session
from cogvx.metrics.ssim import similarity
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.model.load import without_progress_bars
from cogvx.mp4 import write_mp4
from cogvx.shapes import VideoSize
from cogvx.store import LocalStore
from cogvx.variants import read_facts
from tasks.evaluation.contest import Contested, hold_contest
from tasks.settings import Settings
from tasks.workbench import Workbench
from tests.benchmarks.training import NANO
from tests.cache.toys import recipe
from tests.encoding.benches import clip_of
from tests.evaluation.builders import suite_of
from tests.evaluation.conftest import write_adapter

SHARE, AGAIN = 0.10, 0.2
SEEDS, CLIPS, HELDOUT = (1, 2), 4, 2
CHANNELS = 16
GENERATION = "generate"
NETWORKS = (GENERATION, "losses", "drift")
EXCHANGE = "exchange"
SCORING = "score"
# Where a part of an evaluation is called; what it calls in turn is counted by its own name.
PARTS = (
    (GENERATION, "cogvx.inference.session.Session.generate"),
    ("code mp4", "cogvx.inference.batch.write_mp4"),
    ("load", "tasks.evaluation.measure._open_session"),
    ("prove", "cogvx.evaluation.render.require_effect"),
    ("losses", "tasks.evaluation.contest.measure_losses"),
    ("drift", "tasks.evaluation.gauges.drift_of"),
    ("clips", "tasks.evaluation.contest.look_around"),
    (SCORING, "tasks.evaluation.contest.score_footage"),
    ("judge", "tasks.evaluation.contest.judge"),
)


class Stopwatch:
    """Processor seconds of each part; what it calls that is itself a part is not counted twice."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, timed."""

        @wraps(call)
        def wrapped(*words: Any, **named: Any) -> Any:
            self._inside.append(0.0)
            began = time.process_time()
            try:
                return call(*words, **named)
            finally:
                took = time.process_time() - began
                self.spent[part] += took - self._inside.pop()
                if self._inside:
                    self._inside[-1] += took

        return wrapped


def build_base(folder: Path, size: VideoSize) -> Path:
    """The toy's folder with a VAE of the published shape and a transformer for its latents."""
    shutil.copytree(NANO, folder)
    torch.manual_seed(0)
    levels = 4  # halves each side three times, and the frames twice
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(4,) * levels,
        down_block_types=("CogVideoXDownBlock3D",) * levels,
        up_block_types=("CogVideoXUpBlock3D",) * levels,
        latent_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=1,
        temporal_compression_ratio=4,
        sample_height=size.height,
        sample_width=size.width,
        scaling_factor=0.7,
    )
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=32,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        time_embed_dim=32,
        text_embed_dim=64,
        num_layers=1,
        sample_width=size.width // 8,
        sample_height=size.height // 8,
        sample_frames=size.frames,
        patch_size=2,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=True,
    )
    with without_progress_bars():
        for name, part in (("vae", vae), ("transformer", transformer)):
            shutil.rmtree(folder / name)
            part.save_pretrained(folder / name)
    return folder


def open_bench(folder: Path, size: VideoSize) -> Workbench:
    base = build_base(folder / "base", size)
    video = {"frames": size.frames, "height": size.height, "width": size.width, "fps": 8}
    return Workbench(
        recipe=recipe(base={"path": str(base)}, video=video, train={"heldout_strata": 1}),
        settings=Settings(home=folder / "home", device="cpu"),
        store=LocalStore(folder / "store"),
        dataset=LocalStore(folder / "clips"),
        base=base,
        base_fingerprint=fingerprint(base, BASE_PARTS),
        facts=read_facts(base),
        ids=Identities(vae="0" * 64, text="1" * 64),
        warnings=(),
    )


def moving_blobs(size: VideoSize, seed: int) -> np.ndarray:
    """A texture that moves to the left, as a clip."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (size.height, size.width + 4 * size.frames, 3)).astype(np.float32)
    blobs = cv2.GaussianBlur(noise, (0, 0), 6)
    blobs = (255 * (blobs - blobs.min()) / (blobs.max() - blobs.min())).astype(np.uint8)
    return np.stack([blobs[:, 4 * n : 4 * n + size.width] for n in range(size.frames)])


def cached_clips(bench: Workbench, size: VideoSize) -> Manifest:
    """Clips whose records lie in the store, as the cache stage leaves them; noise for latents."""
    root, clips = Path(bench.dataset.root), []
    root.mkdir()
    for number in range(CLIPS):
        write_mp4(root / f"{number}.mp4", moving_blobs(size, number), fps=8)
        split = "heldout" if number < HELDOUT else "train"
        clip = clip_of(root / f"{number}.mp4", root, f"clip {number}", size=size, split=split)
        clips.append(clip)
        latent = bench.facts.compression.latent(size)
        shape_cfhw = (2 * CHANNELS, latent.frames, latent.height, latent.width)
        key = latent_key(clip, bench.recipe, bench.ids)
        bench.store.write(key.path, pack_latents(key, torch.randn(shape_cfhw)))
        text = prompt_key(clip.caption, bench.recipe, bench.ids, bench.facts)
        embedding_sd = torch.randn(bench.facts.text_tokens, bench.facts.text_dim)
        bench.store.write(text.path, pack_prompt(text, embedding_sd))
    return Manifest(dataset="benchmark", clips=tuple(clips))


def suite_for(prompts: int, steps: int) -> Suite:
    """The last quarter of the prompts are none of the adapter's business."""
    away = max(prompts // 4, 1)
    return suite_of(
        seeds=SEEDS,
        sampling={"steps": steps, "guidance": 1.0, "sampler": "dpm"},
        prompts=[
            {
                "id": f"prompt-{number}",
                "prompt": f"a red circle moves to the left, {number}",
                "group": "domain" if number < prompts - away else "off_domain",
            }
            for number in range(prompts)
        ],
        gate={"primaries": ["heldout_loss"], "screen": False, "second_look": False},
    )


def evaluate(hold: Callable[[], Contested], folder: Path) -> tuple[Stopwatch, float]:
    """One evaluation and its pages: seconds of each part, and of all."""
    watch = Stopwatch()
    with pytest.MonkeyPatch.context() as patched:
        for part, place in PARTS:
            owner, _, name = place.rpartition(".")
            module = sys.modules.get(owner)
            timed = watch.timed(part, getattr(module or Session, name))
            patched.setattr(place, drawn(timed, watch) if part == GENERATION else timed)
        began = time.process_time()
        contested = hold()
        videos = {
            (arm.arm.name, video.prompt_id, video.seed): video.path
            for arm in contested.arms
            for video in arm.videos
        }
        watch.timed("report", write_report)(contested.report, videos, folder)
        total = time.process_time() - began
        return watch, total - watch.spent.pop(EXCHANGE, 0.0)


def drawn(generate: Callable[..., np.ndarray], watch: Stopwatch) -> Callable[..., np.ndarray]:
    """Generate, and then give a drawn clip of the same size; each call another."""
    numbers = itertools.count()

    def exchange(made_fhwc: np.ndarray) -> np.ndarray:
        frames, height, width, _ = made_fhwc.shape
        return moving_blobs(VideoSize(frames, height, width), next(numbers))

    exchanged = watch.timed(EXCHANGE, exchange)

    @wraps(generate)
    def wrapped(*words: Any, **named: Any) -> np.ndarray:
        clip: np.ndarray = exchanged(generate(*words, **named))
        return clip

    return wrapped


def show(watch: Stopwatch, total: float, videos: int) -> None:
    """Every part in seconds a video, and its share."""
    rest = total - sum(watch.spent.values())
    for part, seconds in [*watch.spent.items(), ("rest", rest)]:
        print(f"  {part:<10}{seconds / videos:8.3f} s a video   {seconds / total:7.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--size", type=VideoSize.parse, default=VideoSize(49, 480, 720))
    parser.add_argument("--steps", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = open_bench(folder, asked.size)
        manifest, suite = cached_clips(bench, asked.size), suite_for(asked.prompts, asked.steps)
        small_fhwc = np.zeros((2, 32, 32, 3), np.uint8)
        similarity(small_fhwc, small_fhwc)  # loads what is loaded once in a process
        adapter: AdapterAtWeight = write_adapter(bench.base, folder / "adapter", seed=1)
        arms = (Arm("base"), Arm("challenger", (adapter,)))
        hold = partial(hold_contest, bench, arms, suite, manifest, model="benchmark", provenance={})
        videos = len(arms) * suite.videos
        first, total = evaluate(hold, folder / "first")
        second, again_total = evaluate(hold, folder / "second")
    made, scored = first.spent[GENERATION] / videos, first.spent[SCORING]
    others = (total - sum(first.spent[part] for part in NETWORKS)) / videos
    print(f"{videos} videos of {asked.size}, one thread; generating one took {made:.1f} s")
    show(first, total, videos)
    share = others * videos / total
    print(f"share    {share:.3f}   under {SHARE}")
    for kind, seconds in (("2b", 45), ("5b", 90)):
        print(f"  at {seconds} s a video, as {kind} on an H100: {others / (others + seconds):.3f}")
    print(
        f"the same once more: {again_total / videos:.2f} s a video, {again_total / total:.3f} of it"
    )
    show(second, again_total, videos)
    again = second.spent[SCORING] / scored
    print(f"again    {again:.3f}   under {AGAIN}")
    sys.exit(0 if share < SHARE and again < AGAIN else 1)


if __name__ == "__main__":
    main()
