"""What is cached is what the live model gives; what cannot be encoded is named, not skipped."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline
from transformers import T5EncoderModel, T5TokenizerFast

from cogvx.cache.plan import CachePlan, Identities, latent_key, plan_cache, prompt_key
from cogvx.cache.records import unpack
from cogvx.data.decode import decode_clip
from cogvx.data.manifest import Clip, Manifest
from cogvx.data.probe import probe
from cogvx.digest import sha256_file
from cogvx.encoding import EncodeReport, Encoders, encode_missing
from cogvx.errors import DataError, IntegrityError, TransientError
from cogvx.model.identity import TEXT_PARTS, VAE_PARTS, fingerprint
from cogvx.recipe import Recipe
from cogvx.store import LocalStore, MemoryStore
from cogvx.variants import read_facts
from tests.cache.toys import recipe

RECIPE = recipe()


@pytest.fixture(scope="module")
def encoders(nano_base: Path) -> Encoders:
    ids = Identities(fingerprint(nano_base, VAE_PARTS), fingerprint(nano_base, TEXT_PARTS))
    return Encoders(nano_base, read_facts(nano_base), ids)


@pytest.fixture(scope="module")
def clips(world_clips: Path) -> tuple[Clip, ...]:
    """Three clips, two of which share a caption."""
    lines = (world_clips / "metadata.jsonl").read_text().splitlines()[:3]
    rows = [json.loads(line) for line in lines]
    captions = [rows[0]["text"], rows[1]["text"], f"  {rows[0]['text']} "]
    paths = [world_clips / row["file_name"] for row in rows]
    return tuple(
        Clip(
            key=path.relative_to(world_clips).as_posix(),
            sha256=sha256_file(path),
            caption=caption,
            facts=probe(path),
            size=RECIPE.video.size,
        )
        for path, caption in zip(paths, captions, strict=True)
    )


class RemoteStore(MemoryStore):
    """A dataset that has to be copied here before it can be decoded, like one on S3."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        for path in folder.rglob("*.mp4"):
            self.upload(path, path.relative_to(folder).as_posix())


class Bench:
    """A store to fill from a dataset, and the folder that clips pass through."""

    def __init__(self, encoders: Encoders, dataset: MemoryStore, work: Path) -> None:
        self.encoders, self.dataset, self.work = encoders, dataset, work
        self.store = MemoryStore()
        self.progress: list[tuple[str, int, int]] = []

    def plan(self, clips: tuple[Clip, ...], with_recipe: Recipe = RECIPE) -> CachePlan:
        manifest = Manifest(dataset="memory://", clips=clips)
        facts, ids = self.encoders.facts, self.encoders.ids
        return plan_cache(manifest, with_recipe, facts=facts, ids=ids, store=self.store)

    def encode(self, plan: CachePlan, with_recipe: Recipe = RECIPE) -> EncodeReport:
        return encode_missing(
            plan,
            with_recipe,
            encoders=self.encoders,
            dataset=self.dataset,
            store=self.store,
            work=self.work,
            on_progress=lambda *step: self.progress.append(step),
        )

    def latents(self, clip: Clip, with_recipe: Recipe = RECIPE) -> torch.Tensor:
        key = latent_key(clip, with_recipe, self.encoders.ids)
        return unpack(self.store.read(key.path), key.digest)

    def prompt(self, caption: str, with_recipe: Recipe = RECIPE) -> torch.Tensor:
        key = prompt_key(caption, with_recipe, self.encoders.ids, self.encoders.facts)
        return unpack(self.store.read(key.path), key.digest)


@pytest.fixture
def bench(encoders: Encoders, world_clips: Path, tmp_path: Path) -> Bench:
    return Bench(encoders, RemoteStore(world_clips), tmp_path / "work")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_latents_drawn_from_a_record_are_the_live_models(
    bench: Bench, clips: tuple[Clip, ...], nano_base: Path, world_clips: Path, dtype: str
) -> None:
    chosen = recipe(base={"dtype": dtype})
    bench.encode(bench.plan(clips, chosen), chosen)
    vae = AutoencoderKLCogVideoX.from_pretrained(
        nano_base, subfolder="vae", torch_dtype=getattr(torch, dtype)
    )
    for clip in clips:
        rgb_cfhw = decode_clip(world_clips / clip.key, start_frame=0, size=clip.size, fps=8)
        with torch.no_grad():
            posterior = vae.encode(rgb_cfhw[None].to(vae.dtype)).latent_dist
        live_bcfhw = posterior.sample(torch.manual_seed(7))
        mean_cfhw, logvar_cfhw = bench.latents(clip, chosen).chunk(2)
        std_cfhw = torch.exp(0.5 * logvar_cfhw.clamp(-30.0, 20.0))
        noise_bcfhw = torch.randn(
            live_bcfhw.shape, generator=torch.manual_seed(7), dtype=live_bcfhw.dtype
        )
        assert torch.equal(mean_cfhw + std_cfhw * noise_bcfhw[0], live_bcfhw[0])


def test_prompts_are_the_pipelines(bench: Bench, clips: tuple[Clip, ...], nano_base: Path) -> None:
    bench.encode(bench.plan(clips))
    pipeline = CogVideoXPipeline(
        tokenizer=T5TokenizerFast.from_pretrained(nano_base / "tokenizer"),
        text_encoder=T5EncoderModel.from_pretrained(nano_base, subfolder="text_encoder"),
        vae=None,
        transformer=None,
        scheduler=None,
    )
    for caption in ("", *(clip.caption.strip() for clip in clips)):
        with torch.no_grad():
            live_bsd, _ = pipeline.encode_prompt(
                caption,
                do_classifier_free_guidance=False,
                max_sequence_length=bench.encoders.facts.text_tokens,
            )
        assert torch.equal(bench.prompt(caption), live_bsd[0])


def test_a_records_bits_do_not_depend_on_what_is_encoded_beside_it(
    bench: Bench, clips: tuple[Clip, ...]
) -> None:
    bench.encode(bench.plan(clips[1:]))
    together = dict(bench.store.objects)
    bench.store.objects.clear()
    bench.encode(bench.plan(clips[1:2]))
    alone = dict(bench.store.objects)
    assert alone.items() <= together.items()
    assert len(alone) == 3


def test_the_second_time_nothing_is_left_to_encode(bench: Bench, clips: tuple[Clip, ...]) -> None:
    first = bench.encode(bench.plan(clips))
    assert first == EncodeReport(encoded_latents=3, encoded_prompts=3)
    stored = dict(bench.store.objects)
    again = bench.plan(clips)
    assert again.is_complete
    assert bench.encode(again) == EncodeReport(0, 0)
    assert bench.store.objects == stored


def test_only_the_part_of_the_model_that_is_needed_is_loaded(
    encoders: Encoders, bench: Bench, clips: tuple[Clip, ...], tmp_path: Path
) -> None:
    bench.encode(bench.plan(clips))
    # There is no model in this folder: loading any part of it would fail.
    bench.encoders = Encoders(tmp_path / "nowhere", encoders.facts, encoders.ids)
    bench.encode(bench.plan(clips))
    new_caption = clips[0].model_copy(update={"caption": "another caption"})
    (text_only := tmp_path / "text only").mkdir()
    for part in TEXT_PARTS:
        (text_only / part).symlink_to(encoders.folder / part)
    bench.encoders = Encoders(text_only, encoders.facts, encoders.ids)
    assert bench.encode(bench.plan((new_caption,))) == EncodeReport(0, 1)


def test_progress_is_told_of_each_kind(bench: Bench, clips: tuple[Clip, ...]) -> None:
    bench.encode(bench.plan(clips))
    steps = [("clips", done, 3) for done in (1, 2, 3)]
    assert bench.progress == steps + [("captions", done, 3) for done in (1, 2, 3)]


def test_no_clip_is_left_in_the_work_folder(bench: Bench, clips: tuple[Clip, ...]) -> None:
    bench.encode(bench.plan(clips))
    assert list(bench.work.rglob("*")) == []


def test_clips_in_a_folder_are_read_where_they_are(
    bench: Bench, clips: tuple[Clip, ...], world_clips: Path
) -> None:
    bench.dataset = LocalStore(world_clips)
    before = sorted(world_clips.rglob("*"))
    # Even if somebody's clips lie below the work folder, they are not tidied away.
    bench.work = world_clips
    assert bench.encode(bench.plan(clips)).encoded_latents == 3
    assert sorted(world_clips.rglob("*")) == before


def test_a_bad_clip_is_refused_with_its_reason_and_the_others_go_on(
    bench: Bench, clips: tuple[Clip, ...], world_clips: Path
) -> None:
    bad = b"this is no video"
    bench.dataset.write("bad.mp4", bad)
    (bench.work.parent / "bad").write_bytes(bad)
    update = {"key": "bad.mp4", "sha256": sha256_file(bench.work.parent / "bad")}
    undecodable = clips[0].model_copy(update=update)
    changed = clips[1].model_copy(update={"sha256": "0" * 64})
    missing = clips[1].model_copy(update={"key": "gone.mp4", "sha256": "1" * 64})
    report = bench.encode(bench.plan((undecodable, changed, missing, clips[2])))
    assert {clip.key: clip.reason for clip in report.refused} == {
        "bad.mp4": "undecodable",
        changed.key: "changed",
        "gone.mp4": "missing",
    }
    assert report.encoded_latents == 1
    assert bench.latents(clips[2]).isfinite().all()
    assert [key for key in bench.store.objects if "latents" in key] == [
        latent_key(clips[2], RECIPE, bench.encoders.ids).path
    ]


def test_a_dataset_that_does_not_answer_stops_the_work_and_keeps_what_is_done(
    bench: Bench, clips: tuple[Clip, ...]
) -> None:
    class Failing(MemoryStore):
        def fetch(self, key: str, folder: Path) -> Path:
            if key == clips[2].key:
                raise TransientError("503")
            return super().fetch(key, folder)

    failing = Failing()
    failing.objects = bench.dataset.objects
    bench.dataset = failing
    with pytest.raises(TransientError):
        bench.encode(bench.plan(clips))
    assert len(bench.plan(clips).clips) == 1


def test_a_plan_for_another_recipe_is_refused(bench: Bench, clips: tuple[Clip, ...]) -> None:
    with pytest.raises(IntegrityError, match="made for another recipe or base model than toy"):
        bench.encode(bench.plan(clips), recipe(video={"fps": 4}))
    assert bench.store.objects == {}


def test_latents_that_are_not_finite_are_refused_with_the_clips_name(
    bench: Bench, clips: tuple[Clip, ...], nano_base: Path, tmp_path: Path
) -> None:
    vae = AutoencoderKLCogVideoX.from_pretrained(nano_base, subfolder="vae")
    vae.encoder.conv_in.conv.bias.data.fill_(float("nan"))
    vae.save_pretrained(tmp_path / "broken" / "vae")
    bench.encoders = Encoders(tmp_path / "broken", bench.encoders.facts, bench.encoders.ids)
    with pytest.raises(DataError, match=f"{clips[0].key}: .*not finite"):
        bench.encode(bench.plan(clips))
    assert bench.store.objects == {}
