"""Peak memory of an encode worker at 1, 4 and 16 times the clips, a fresh process each.

    python -m tests.benchmarks.memory [CLIPS]

Memory follows from what is decoded ahead and what is on its way to the store, both bounded, and not
from how many clips there are. The store is slow on purpose, so that records pile up if they can.
What records that stayed would look like, `--leak` shows by keeping them.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cogvx.cache.plan import plan_cache
from cogvx.data.manifest import Manifest
from cogvx.encoding import encode_missing
from cogvx.shapes import VideoSize
from cogvx.store import LocalStore
from tests.benchmarks.bases import Width, build_base
from tests.cache.toys import recipe
from tests.data.clips import free_box, write_clip
from tests.encoding.benches import clip_of, encoders_of

TIMES = (1, 4, 16)
SIZE = VideoSize(9, 96, 144)
# It has many latent channels, so that records weigh as much as clips, and more than encoding needs:
# memory that was needed and given back would hide what is kept.
BASE = Width(vae=(32, 32, 32, 32), text=64, text_inner=128, text_layers=1, latents=256)
SLOW_S = 0.1
GROWTH = 0.25  # of what the further records weigh together


class SlowStore(LocalStore):
    """A store far away; for comparison one that keeps in memory all that it is given."""

    kept: list[bytes] | None = None
    weight = 0

    def create(self, key: str, data: bytes) -> bool:
        time.sleep(SLOW_S)
        self.weight += len(data)
        if self.kept is not None:
            self.kept.append(bytes(bytearray(data)))
        return super().create(key, data)


def work(folder: Path, count: int, *, leak: bool) -> None:
    """One worker's life; prints what it stored and its peak, in MiB."""
    encoders = encoders_of(folder / "base")
    made = recipe(video={"frames": SIZE.frames, "height": SIZE.height, "width": SIZE.width})
    clips = sorted((folder / "clips").iterdir())[:count]
    windows = tuple(
        clip_of(path, folder / "clips", f"clip {number}", size=SIZE)
        for number, path in enumerate(clips)
    )
    manifest = Manifest(dataset="file:///clips", clips=windows)
    with tempfile.TemporaryDirectory(dir=folder) as records:
        store = SlowStore(Path(records))
        store.kept = [] if leak else None
        plan = plan_cache(manifest, made, facts=encoders.facts, ids=encoders.ids, store=store)
        report = encode_missing(
            plan,
            made,
            encoders=encoders,
            dataset=LocalStore(folder / "clips"),
            store=store,
            work=folder / "work",
            on_progress=lambda kind, done, total: None,
        )
    assert report.encoded_latents == count
    print(store.weight / 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=int, nargs="?", default=8)
    parser.add_argument("--leak", action="store_true", help="keep every record in memory")
    parser.add_argument("--worker", type=Path, help="the folder to work in, for the processes")
    asked = parser.parse_args()
    if asked.worker:
        work(asked.worker, asked.clips, leak=asked.leak)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_base(folder / "base", BASE)
        first = write_clip(
            folder / "first.mp4", height=SIZE.height, width=SIZE.width, frames=SIZE.frames
        )
        (folder / "clips").mkdir()
        for number in range(asked.clips * TIMES[-1]):
            path = folder / "clips" / f"{number:04d}.mp4"
            path.write_bytes(first.read_bytes() + free_box(str(number).encode()))
        window = SIZE.frames * SIZE.pixels * 3 * 4 / 2**20
        print(f"windows of {SIZE}: {window:.1f} MiB decoded, each")
        peaks, weights = [], []
        for times in TIMES:
            count = asked.clips * times
            process = [sys.executable, "-m", "tests.benchmarks.memory", str(count)]
            process += ["--worker", name, *(["--leak"] if asked.leak else [])]
            # with an arena for each thread, peaks of equal work differ by 90 MiB
            environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
            done = subprocess.run(
                process, check=True, stdout=subprocess.PIPE, text=True, env=environment
            )
            weight, peak = map(float, done.stdout.split()[-2:])
            peaks.append(peak)
            weights.append(weight)
            print(
                f"{times:3d}x {count:5d} clips: records of {weight:6.1f} MiB, peak {peak:7.1f} MiB",
                flush=True,
            )
    share = (max(peaks) - peaks[0]) / (weights[-1] - weights[0])
    print(f"growth over what further records weigh: {share:.3f} (at most {GROWTH})")
    sys.exit(share > GROWTH)


if __name__ == "__main__":
    main()
