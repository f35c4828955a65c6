"""From clips of mixed shapes to an adapter: windows, buckets, random cuts, mirrors; no servers."""

import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from cogvx.cache.materialise import materialise
from cogvx.cache.plan import Identities, latent_key, plan_cache, prompt_key, record_paths, samples
from cogvx.cache.records import unpack
from cogvx.data.ingest import Ledger, ingest
from cogvx.data.manifest import Clip, Manifest
from cogvx.data.windows import crop_rule
from cogvx.encoding import Encoders, encode_missing
from cogvx.files import read_document, write_document
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.recipe import Recipe
from cogvx.runs.folder import RunFolder, RunSpec, TrainOutcome
from cogvx.shapes import cover_and_crop
from cogvx.store import LocalStore, MemoryStore
from cogvx.training.__main__ import main
from cogvx.variants import read_facts
from tests.data.clips import write_clip

IDS = Identities(vae="a" * 64, text="b" * 64)


@pytest.fixture(autouse=True)
def _process_state_comes_back() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares long and short, wide ones, tall ones that fit badly; one caption names a side."""
    folder = tmp_path_factory.mktemp("mixed") / "clips"
    shapes = {
        "long": {"frames": 40, "height": 48, "width": 48},
        "short": {"frames": 12, "height": 56, "width": 50},
        "wide": {"frames": 20, "height": 40, "width": 90},
        "sided": {"frames": 12, "height": 36, "width": 64},
        "other": {"frames": 12, "height": 48, "width": 60},
        "more": {"frames": 12, "height": 50, "width": 52},
    }
    for number, (name, shape) in enumerate(shapes.items(), start=1):
        write_clip(folder / f"{name}.mp4", fps=8, seed=number, **shape)
        caption = "grey, lighter on the left" if name == "sided" else f"grey {name}"
        (folder / f"{name}.txt").write_text(caption)
    return folder


def make_recipe(base: Path, clips: Path) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "mixed",
            "base": {"path": str(base), "dtype": "float32"},
            "dataset": {"uri": str(clips), "min_heldout": 2, "heldout_share": 0, "min_motion": 0},
            "video": {
                "frames": 9,
                "height": 48,
                "width": 48,
                "fps": 8,
                "buckets": ("17x48x48", "9x32x64"),
                "windows": 2,
                "crop": "random",
                "crop_seed": 3,
                "flip": True,
            },
            "lora": {"rank": 4, "alpha": 4, "allow_unusual": True},
            "train": {
                "steps": 3,
                "global_batch": 2,
                "micro_batch": 2,
                "warmup_steps": 0,
                "heldout_strata": 2,
            },
            "evaluation": {"suite": "none.toml"},
        }
    )


def survey(recipe: Recipe, clips: Path, work: Path) -> Manifest:
    dataset = LocalStore(clips)
    return ingest(
        dataset,
        config=recipe.dataset,
        video=recipe.video,
        ledger=Ledger.load(MemoryStore(), dataset.url),
        work=work,
        on_progress=lambda _done, _total: None,
    )


def reference_cfhw(path: Path, clip: Clip, places: tuple[int, int]) -> torch.Tensor:
    """Decode, resize, cut and mirror without any code of ours; clips play at the target's rate."""
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    chosen = np.stack(shown[clip.start_frame : clip.start_frame + clip.size.frames])
    height, width = chosen.shape[1:3]
    scale = max(clip.size.height / height, clip.size.width / width)
    resized = (
        max(clip.size.height, round(height * scale)),
        max(clip.size.width, round(width * scale)),
    )
    rgb_fchw = torch.nn.functional.interpolate(
        torch.from_numpy(chosen).permute(0, 3, 1, 2).float(),
        resized,
        mode="bilinear",
        antialias=True,
    )
    top, left = places
    cut = rgb_fchw[:, :, top : top + clip.size.height, left : left + clip.size.width]
    return (cut.flip(3) if clip.flip else cut).permute(1, 0, 2, 3) / 127.5 - 1


def test_windows_of_mixed_clips_are_encoded_as_their_keys_say_and_trained_on(
    clips: Path, nano_base: Path, tmp_path: Path
) -> None:
    recipe, facts = make_recipe(nano_base, clips), read_facts(nano_base)
    manifest = survey(recipe, clips, tmp_path / "work")
    assert manifest.rejected == ()

    # Every clip is on one side with all of its windows, and no held-out one is mirrored.
    sides = {clip.key: clip.split for clip in manifest.clips}
    assert all(clip.split == sides[clip.key] for clip in manifest.clips)
    assert Counter(sides.values()) == {"train": 4, "heldout": 2}
    assert not any(clip.flip for clip in manifest.heldout)
    assert not any(clip.flip for clip in manifest.clips if clip.key == "sided.mp4")
    mirrored = {(clip.key, clip.start_frame) for clip in manifest.clips if clip.flip}
    plain = {(clip.key, clip.start_frame) for clip in manifest.train if clip.key != "sided.mp4"}
    assert mirrored == plain
    sizes = {clip.key: str(clip.size) for clip in manifest.clips}
    assert sizes == {
        "long.mp4": "17x48x48",
        "short.mp4": "9x48x48",
        "wide.mp4": "9x32x64",
        "sided.mp4": "9x32x64",
        "other.mp4": "9x48x48",
        "more.mp4": "9x48x48",
    }
    starts = {(clip.key, clip.start_frame) for clip in manifest.clips}
    assert {start for key, start in starts if key == "long.mp4"} == {0, 20}
    assert {start for key, start in starts if key == "wide.mp4"} == {0, 10}
    assert {start for key, start in starts if key == "other.mp4"} == {0}

    store = MemoryStore()
    plan = plan_cache(manifest, recipe, facts=facts, ids=IDS, store=store)
    assert plan.latents_wanted == len(manifest.clips)
    encode_missing(
        plan,
        recipe,
        encoders=Encoders(nano_base, facts, IDS, device="cpu"),
        dataset=LocalStore(clips),
        store=store,
        work=tmp_path / "work",
        on_progress=lambda _kind, _done, _total: None,
    )
    assert plan_cache(manifest, recipe, facts=facts, ids=IDS, store=store).is_complete

    vae = AutoencoderKLCogVideoX.from_pretrained(nano_base, subfolder="vae")
    checked = [clip for clip in manifest.clips if clip.key in ("wide.mp4", "short.mp4")]
    assert {clip.start_frame for clip in checked} == {0, 10}
    for clip in checked:  # these leave something to cut off
        cut = cover_and_crop(clip.facts.height, clip.facts.width, clip.size, crop_rule(clip))
        rgb_cfhw = reference_cfhw(clips / clip.key, clip, (cut.top, cut.left))
        with torch.no_grad():
            expected = vae.encode(rgb_cfhw[None]).latent_dist.parameters[0]
        key = latent_key(clip, recipe, IDS)
        assert torch.allclose(unpack(store.read(key.path), key.digest), expected, atol=1e-4)

    train(recipe, manifest, nano_base, tmp_path / "run", store)


def train(recipe: Recipe, manifest: Manifest, base: Path, root: Path, store: MemoryStore) -> None:
    facts, folder = read_facts(base), RunFolder(root)
    empty = prompt_key("", recipe, IDS, facts).digest
    spec = RunSpec(
        run="mixed",
        recipe=recipe,
        manifest=manifest.content_digest(),
        base_folder=str(base),
        base_fingerprint=fingerprint(base, BASE_PARTS),
        code_version="0",
        train=samples(manifest.train, recipe, facts=facts, ids=IDS),
        heldout=samples(manifest.heldout, recipe, facts=facts, ids=IDS),
        empty_prompt=empty,
    )
    paths = record_paths((*spec.train, *spec.heldout), empty)
    materialise(paths, store, folder.records, on_progress=lambda _done, _total: None)
    write_document(folder.spec, spec)
    assert main([str(root)]) == 0
    outcome = read_document(folder.outcome, TrainOutcome)
    assert outcome.status == "completed"
    assert outcome.heldout_after is not None
    shutil.rmtree(root)
