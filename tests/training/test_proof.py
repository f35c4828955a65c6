"""The proof of the first batch: what training will see, and alarmed where that is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from PIL import Image

from cogvx.cache.plan import EMPTY_CAPTION, prompt_key, record_paths, samples
from cogvx.data.manifest import Clip
from cogvx.errors import IntegrityError
from cogvx.files import read_document, write_bytes, write_document
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.mp4 import read_mp4
from cogvx.objective.batch import Batches
from cogvx.objective.objective import Objective
from cogvx.objective.records import Records
from cogvx.runs.folder import RunFolder, RunSpec
from cogvx.shapes import VideoSize
from cogvx.training.proof import ProofOrder, Source, first_samples, main, make_proof
from tests.encoding.benches import Bench, RemoteStore, clip_of, encoders_of
from tests.fixtures.family import IMAGE_MEMBERS, BaseOf, Member
from tests.fixtures.training_runs import make_recipe

NANO = Path(__file__).parents[2] / "cogvx" / "model" / "nano" / "weights"
TRAIN = {"global_batch": 4, "micro_batch": 2, "caption_dropout": 0.0}


@pytest.fixture(scope="module")
def clips(world_clips: Path) -> tuple[Clip, ...]:
    lines = [json.loads(line) for line in (world_clips / "metadata.jsonl").read_text().splitlines()]
    return tuple(
        clip_of(world_clips / line["file_name"], world_clips, line["text"]) for line in lines[:6]
    )


@pytest.fixture(scope="module")
def run(
    clips: tuple[Clip, ...], world_clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    """A run over real clips, encoded by the nano model; do not change it."""
    root = tmp_path_factory.mktemp("proof")
    folder, recipe = RunFolder(root / "run"), make_recipe(NANO, **TRAIN)
    bench = Bench(encoders_of(NANO), RemoteStore(world_clips), root / "work")
    bench.encode(bench.plan(clips, recipe), recipe)
    facts, ids = bench.encoders.facts, bench.encoders.ids
    empty = prompt_key(EMPTY_CAPTION, recipe, ids, facts).digest
    train = samples(clips, recipe, facts=facts, ids=ids)
    for name, path in record_paths(train, empty).items():
        write_bytes(folder.record(name), bench.store.read(path))
    spec = RunSpec(
        run="0" * 64,
        recipe=recipe,
        manifest="manifest",
        base_folder=str(NANO),
        base_fingerprint=fingerprint(NANO, BASE_PARTS),
        code_version="0",
        train=train,
        heldout=(),
        empty_prompt=empty,
    )
    write_document(folder.spec, spec)
    return folder


@pytest.fixture
def fresh(run: RunFolder, tmp_path: Path) -> Callable[..., RunFolder]:
    """A copy of the run, with some other settings of training."""

    def copy(**train: object) -> RunFolder:
        folder = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
        spec = folder.read_spec()
        recipe = make_recipe(NANO, **{**TRAIN, **train})
        write_document(folder.spec, spec.model_copy(update={"recipe": recipe}))
        return folder

    return copy


def order_of(folder: RunFolder, clips: tuple[Clip, ...], root: Path, shift: int = 0) -> ProofOrder:
    """With the source of every sample, or of the sample `shift` further on."""
    spec = folder.read_spec()
    sources = {
        sample.latents: Source(clip=clip, path=root / clip.key)
        for sample, clip in zip(spec.train, clips[shift:] + clips[:shift], strict=True)
    }
    return ProofOrder(device="cpu", fps=8, sources=sources)


def test_the_very_samples_of_the_first_update_are_decoded_beside_their_sources(
    fresh: Callable[..., RunFolder], clips: tuple[Clip, ...], world_clips: Path
) -> None:
    folder = fresh()
    shown = make_proof(folder, order_of(folder, clips, world_clips))
    spec = read_document(folder.spec, RunSpec)
    batches = Batches(
        Records(folder.records),
        spec.train,
        spec.empty_prompt,
        Objective.of(NANO),
        spec.recipe.train,
    )
    drawn = [batches.draw(0, micro=m, rank=0, device=torch.device("cpu")) for m in range(2)]
    latents_bcfhw = torch.cat([batch.latents_bfchw for batch in drawn]).transpose(1, 2)
    timesteps = [int(t) for batch in drawn for t in batch.timesteps_b]
    vae = AutoencoderKLCogVideoX.from_pretrained(NANO, subfolder="vae")
    with torch.no_grad():
        rgb_bcfhw = vae.decode(latents_bcfhw / vae.config.scaling_factor).sample
    page = (shown / "index.html").read_text()
    numbers = [batches.sampler.clip(0, position) for position in range(4)]
    assert first_samples(spec) == tuple(numbers)
    for position, number in enumerate(numbers):
        video = read_mp4(shown / f"clip-{position}.mp4")
        wanted = rgb_bcfhw[position].permute(1, 2, 3, 0).add(1).mul(127.5).clamp(0, 255).numpy()
        assert np.abs(video.rgb_fhwc.astype(float) - wanted).mean() < 6
        assert video.fps == 8
        for said in (spec.train[number].caption, spec.train[number].latents, clips[number].key):
            assert said in page
        assert f"timestep {timesteps[position]}, noise " in page
    assert page.count("dB against its source") == 4
    assert "caption dropped" not in page
    with Image.open(shown / "first_batch.png") as picture:
        assert picture.width > 1000


def test_latents_of_another_clip_are_noticed(
    fresh: Callable[..., RunFolder], clips: tuple[Clip, ...], world_clips: Path
) -> None:
    folder = fresh(global_batch=2)
    shown = make_proof(folder, order_of(folder, clips, world_clips, shift=1))
    assert (shown / "index.html").read_text().count("dB: does not look like its source") == 2


def test_a_dropped_caption_and_an_absent_source_are_said(
    fresh: Callable[..., RunFolder], clips: tuple[Clip, ...], tmp_path: Path
) -> None:
    folder = fresh(global_batch=2, caption_dropout=0.999)
    order = order_of(folder, clips, tmp_path / "nowhere")
    page = (make_proof(folder, order) / "index.html").read_text()
    assert page.count("caption dropped: ") == 2
    assert page.count("not compared with its source") == 2


def test_a_proof_is_made_once_and_by_a_process_of_its_own_too(
    fresh: Callable[..., RunFolder],
    clips: tuple[Clip, ...],
    world_clips: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = fresh(global_batch=2)
    write_document(folder.proof_order, order_of(folder, clips, world_clips))
    assert main([str(folder.root)]) == 0
    made = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files_of(folder)}
    assert {path.name for path in made} == {
        *("clip-0.mp4", "clip-1.mp4", "first_batch.png", "index.html")
    }
    assert main([str(folder.root)]) == 0
    again = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files_of(folder)}
    assert again == made
    shutil.rmtree(folder.first_batch)
    record = folder.record(folder.read_spec().train[first_samples(folder.read_spec())[0]].latents)
    record.write_bytes(record.read_bytes()[:-1])
    assert main([str(folder.root)]) == IntegrityError.exit_code
    assert "is damaged" in capsys.readouterr().err
    assert not folder.first_batch.exists()
    assert main([]) == 2


def files_of(folder: RunFolder) -> list[Path]:
    return sorted(folder.first_batch.iterdir())


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (VideoSize(9, 48, 48), 4),
        (VideoSize(49, 480, 720), 2),
        (VideoSize(81, 768, 1360), 1),
        (VideoSize(161, 768, 1360), 1),
    ],
)
def test_as_many_are_shown_as_a_gpu_decodes_in_a_moment(
    size: VideoSize, count: int, run: RunFolder
) -> None:
    spec = run.read_spec()
    large = tuple(sample.model_copy(update={"size": size}) for sample in spec.train)
    assert len(first_samples(spec.model_copy(update={"train": large}))) == count


@pytest.mark.parametrize("member", IMAGE_MEMBERS, ids=str)
def test_the_first_frame_that_a_model_starts_from_is_shown_or_said_to_be_hidden(
    member: Member, new_run: Callable[..., Path], base_of: BaseOf
) -> None:
    scale = "raw" if member is IMAGE_MEMBERS[-1] else None
    for dropout, said in ((0.0, "first frame given"), (0.999, "first frame hidden")):
        root = new_run(
            base_of(member), size=member.size, image_latent_scale=scale, image_dropout=dropout
        )
        folder = RunFolder(root)
        shown = make_proof(folder, ProofOrder(device="cpu", fps=8))
        assert (shown / "index.html").read_text().count(f"<figcaption>{said}") == 2
        frames = len(read_mp4(shown / "clip-0.mp4").rgb_fhwc)
        assert frames == member.size.frames  # what is padded in front is not shown
