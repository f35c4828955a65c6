"""What full-size encoders do on a GPU, as a Markdown table: speed and peak memory, tiled and not.

    python -m tests.benchmarks.gpu_encoding [--dtype bfloat16] [--repeats 3]
    python -m tests.benchmarks.gpu_encoding --toy     # small encoders on the CPU: does it work?

The weights are random, made on the device from the published configuration; nothing is downloaded.
A size that does not fit is a row that says so.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from cogvx.model.encode import encode_video
from cogvx.shapes import VideoSize
from tests.benchmarks.bases import PUBLISHED, TOKENS, WIDE, Width, random_t5, random_vae

SIZES = (VideoSize(49, 480, 720), VideoSize(81, 768, 1360))
TOY_SIZES = (VideoSize(9, 64, 96), VideoSize(17, 64, 96))
BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Bench:
    """Where, how precisely and how often."""

    device: torch.device
    dtype: torch.dtype
    width: Width
    repeats: int

    def measure(self, work: Callable[[], object]) -> tuple[float, float] | None:
        """Seconds of one call and GiB at its peak; None if it did not fit."""
        try:
            work()  # the first call chooses kernels
            self._wait()
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            for _ in range(self.repeats):
                work()
            self._wait()
        except torch.OutOfMemoryError:
            return None
        took = (time.perf_counter() - began) / self.repeats
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0
        return took, peak / 2**30

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def build(self, make: Callable[[Width], torch.nn.Module]) -> torch.nn.Module:
        """A module made where and how precisely it is used: T5 in float32 would be 19 GB."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with self.device:
                return make(self.width).requires_grad_(requires_grad=False)
        finally:
            torch.set_default_dtype(before)


def video_rows(bench: Bench, sizes: Sequence[VideoSize]) -> None:
    vae = bench.build(random_vae)
    print("| clip | VAE | clips/s | seconds a clip | peak GiB |")
    print("|---|---|---:|---:|---:|")
    for size in sizes:
        rgb_bcfhw = (
            torch.rand(1, 3, size.frames, size.height, size.width, dtype=bench.dtype) * 2 - 1
        )
        for tiled in (False, True):
            vae.enable_tiling() if tiled else vae.disable_tiling()
            found = bench.measure(lambda rgb=rgb_bcfhw: encode_video(vae, rgb).cpu())
            how = "tiled" if tiled else "whole"
            print(f"| {size} | {how} | {rate(found, 1)} |", flush=True)
            release(bench)


@torch.no_grad()
def caption_rows(bench: Bench) -> None:
    text = bench.build(random_t5)
    generator = torch.Generator().manual_seed(0)
    ids_bs = torch.randint(2, 32_000, (max(BATCHES), TOKENS), generator=generator).to(bench.device)
    print("\n| captions at once | captions/s | seconds a batch | peak GiB | place changes bits |")
    print("|---:|---:|---:|---:|---|")
    for batch in BATCHES:
        some = ids_bs[:batch]
        found = bench.measure(lambda some=some: text(some)[0].cpu())
        turned = text(some.roll(1, 0))[0].roll(-1, 0)
        changes = "no" if torch.equal(turned, text(some)[0]) else "yes"
        print(f"| {batch} | {rate(found, batch)} | {changes} |", flush=True)
        release(bench)


def rate(found: tuple[float, float] | None, count: int) -> str:
    if found is None:
        return "does not fit | | "
    return f"{count / found[0]:.2f} | {found[0]:.2f} | {found[1]:.1f}"


def release(bench: Bench) -> None:
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--toy", action="store_true", help="small encoders and sizes, on the CPU")
    asked = parser.parse_args()
    if not asked.toy and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device; run this on a GPU, or try it out with --toy")
    device = torch.device("cpu" if asked.toy else "cuda")
    width, sizes = (WIDE, TOY_SIZES) if asked.toy else (PUBLISHED, SIZES)
    bench = Bench(device, getattr(torch, asked.dtype), width, asked.repeats)
    name = "the CPU, toy size" if asked.toy else torch.cuda.get_device_name()
    print(f"{name}, {asked.dtype}, torch {torch.__version__}, random weights\n")
    video_rows(bench, sizes)
    release(bench)
    caption_rows(bench)


if __name__ == "__main__":
    main()
