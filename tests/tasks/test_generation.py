"""`cogvx generate` on one machine: checked at once, made once, labelled, never over other files."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from cogvx.adapters.base import find_base
from cogvx.adapters.card import read_card
from cogvx.adapters.container import read_header
from cogvx.adapters.convert import convert
from cogvx.adapters.export import export_adapter
from cogvx.digest import sha256_file
from cogvx.errors import ConfigError, IntegrityError
from cogvx.inference.choices import BaseChoice, FoundAdapter, choose_base, engine_of
from cogvx.inference.job import GenerateJob, parse_adapter
from cogvx.inference.provenance import read_provenance
from cogvx.inference.shots import find_shots
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.mp4 import read_label, read_mp4, write_mp4
from cogvx.shapes import VideoSize
from cogvx.variants import PUBLISHED, ImageScale
from tasks.clients.registry import Registry, Serving
from tasks.generation.generation import Ready, prepare
from tasks.generation.local_generation import Written, generate_here
from tasks.generation.outputs import early_problems
from tasks.settings import Settings
from tests.adapters.toys import toy_card, trained
from tests.fixtures.family import IMAGE_MEMBERS, MEMBERS, BaseOf, Member

PROMPT = "a large red circle moves left over a blue background"


@dataclass(frozen=True)
class Desk:
    """A home of its own, an adapter, and what was counted."""

    here: Settings
    adapter: Path
    base: Path

    def job(self, *adapters: str, **changes: object) -> GenerateJob:
        document = {
            "name": "videos",
            "adapters": tuple(map(parse_adapter, adapters or (f"{self.adapter}:0.6",))),
            "prompts": [{"prompt": PROMPT, "seed": 1}],
            "steps": 1,
            "guidance": 1.0,
        }
        return GenerateJob.model_validate({**document, **changes})

    def generate(
        self, job: GenerateJob, out: Path, *, force: bool = False
    ) -> tuple[list[Written], int]:
        """What was written, and how many videos were rendered for it."""
        before = len(self.stored())
        done = made(prepare(job, self.here), out, self.here, force=force)
        return done, len(self.stored()) - before

    def stored(self) -> list[Path]:
        return sorted((self.here.home / "store" / "videos").rglob("*.mp4"))

    def problems(self, job: GenerateJob) -> str:
        with pytest.raises(ConfigError) as caught:
            prepare(job, self.here)
        return str(caught.value)


def made(ready: Ready, out: Path, here: Settings, *, force: bool = False) -> list[Written]:
    return list(generate_here(ready, out, here, force=force, on_videos=ignore, on_steps=ignore))


def ignore(_done: int, _total: int) -> None:
    pass


def settings_at(home: Path) -> Settings:
    return Settings(home=home, device="cpu", store_url="", tracking_uri="", _env_file=None)


@pytest.fixture(scope="module")
def adapter(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = toy_card(
        base_path=str(nano_base),
        base_fingerprint=fingerprint(nano_base, BASE_PARTS),
        size="9x48x48",
        fps=16,
    )
    return export_adapter(trained(nano_base), tmp_path_factory.mktemp("adapter"), card=card)


@pytest.fixture
def desk(nano_base: Path, adapter: Path, tmp_path: Path) -> Desk:
    return Desk(settings_at(tmp_path / "home"), adapter, nano_base)


def test_a_video_is_made_once_and_says_what_made_it(desk: Desk, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out.mp4"
    done, rendered = desk.generate(desk.job(), out)
    assert (done, rendered) == ([Written(out, made=True)], 1)
    found = read_provenance(out)
    assert found is not None
    assert (found.prompt, found.seed, found.size, found.fps) == (PROMPT, 1, "9x48x48", 16)
    assert (found.sampler, found.steps, found.dtype) == ("dpm", 1, "float32")
    assert found.base.fingerprint == fingerprint(desk.base, BASE_PARTS)
    (used,) = found.adapters
    assert (used.sha256, used.weight) == (sha256_file(desk.adapter), 0.6)
    (stored,) = desk.stored()
    assert stored.stem == found.video
    assert np.array_equal(read_mp4(out).rgb_fhwc, read_mp4(stored).rgb_fhwc)
    data = out.read_bytes()
    assert desk.generate(desk.job(), out) == ([Written(out, made=False)], 0)
    assert out.read_bytes() == data
    out.unlink()
    assert desk.generate(desk.job(), out) == ([Written(out, made=True)], 0)
    assert out.read_bytes() == data


def test_another_video_is_replaced_only_by_force(desk: Desk, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    desk.generate(desk.job(), out)
    data, other = out.read_bytes(), desk.job(prompts=[{"prompt": PROMPT, "seed": 2}])
    with pytest.raises(ConfigError, match=r"out.mp4 is there already and is another video.*force"):
        desk.generate(other, out)
    assert out.read_bytes() == data
    assert len(desk.stored()) == 1, "it was found before anything was rendered"
    assert desk.generate(other, out, force=True)[1] == 1
    assert out.read_bytes() != data
    private = desk.job(prompts=[{"prompt": PROMPT, "seed": 2}], with_prompt=False)
    assert desk.generate(private, out) == ([Written(out, made=True)], 0)
    assert b"red circle" not in out.read_bytes()


def test_a_prompt_is_encoded_once_for_good(desk: Desk, tmp_path: Path) -> None:
    """Here without what encodes it; elsewhere from nothing, to the same bytes."""
    base = tmp_path / "base"
    shutil.copytree(desk.base, base)
    first, later, other = (
        desk.job(adapters=(), base=str(base), dtype="float32", guidance=6.0, prompts=[line])
        for line in ({"prompt": PROMPT}, {"prompt": PROMPT, "seed": 2}, {"prompt": "another"})
    )
    desk.generate(first, tmp_path / "first.mp4")
    elsewhere = replace(desk, here=settings_at(tmp_path / "elsewhere"))
    elsewhere.generate(later, tmp_path / "elsewhere.mp4")
    before = records(desk)
    assert len(before) == 2, "the prompt, and the empty one"
    ready, unknown = prepare(later, desk.here), prepare(other, desk.here)
    shutil.rmtree(base / "text_encoder")
    made(ready, tmp_path / "later.mp4", desk.here)
    assert (tmp_path / "later.mp4").read_bytes() == (tmp_path / "elsewhere.mp4").read_bytes()
    assert records(desk) == before == records(elsewhere)
    with pytest.raises(ConfigError, match="text_encoder cannot be loaded"):
        made(unknown, tmp_path / "other.mp4", desk.here)


def records(desk: Desk) -> dict[str, bytes]:
    folder = desk.here.home / "store" / "records"
    return {path.name: path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_files_of_somebody_else_are_safe(tmp_path: Path) -> None:
    (tmp_path / "own.mp4").write_bytes(b"mine")
    (tmp_path / "file").write_bytes(b"mine")
    for out, sentence in (
        (tmp_path / "own.mp4", "was not made by cogvx generate; use --force"),
        (tmp_path / "file", "is a file; name a folder"),
        (tmp_path / "file" / "a.mp4", "which is no folder"),
        (tmp_path / "file" / "b" / "c", "which is no folder"),
        (tmp_path / "o.avi", "is no .mp4 file; name it o.mp4"),
        (tmp_path / "o.MOV", "is no .mp4 file; name it o.mp4"),
    ):
        (problem,) = early_problems(out, force=False)
        assert sentence in str(problem)
    assert early_problems(tmp_path / "own.mp4", force=True) == []
    assert early_problems(tmp_path / "new" / "folder", force=False) == []
    (tmp_path / "folder.mp4").mkdir()
    assert "is a folder" in str(early_problems(tmp_path / "folder.mp4", force=True)[0])


def test_what_must_be_converted_first_is_said(desk: Desk, tmp_path: Path) -> None:
    base = find_base(str(desk.base))
    convert(desk.adapter, tmp_path / "kohya", base=base, to="kohya")
    said = desk.problems(desk.job(str(tmp_path / "kohya")))
    assert "lora_kohya.safetensors has kohya's names; convert it first" in said
    (tmp_path / "x.pt").write_bytes(b"PK")
    assert "is a checkpoint of torch; convert it first" in desk.problems(
        desk.job(str(tmp_path / "x.pt"))
    )


def test_tensors_that_are_missing_or_of_another_shape_are_found_before_a_base_is_loaded(
    desk: Desk, tmp_path: Path
) -> None:
    tensors, told = load_file(desk.adapter), dict(read_header(desk.adapter).metadata)
    cardless = {name: text for name, text in told.items() if name != "cogvx_card"}
    last = "transformer.transformer_blocks.1.attn1.to_v.lora_B.weight"
    cut = {**tensors, last: tensors[last][:-1].clone()}
    less = {name: tensor for name, tensor in tensors.items() if name != last}
    for name, its, metadata in (("cut", cut, told), ("l", less, told), ("c", less, cardless)):
        save_file(its, tmp_path / f"{name}.safetensors", metadata)
    files = [str(tmp_path / f"{name}.safetensors") for name in ("cut", "l", "c")]
    said = desk.problems(desk.job(*files, base=str(desk.base)))
    assert said.count("1 tensors are missing, such as " + last) == 2
    assert "B is (" in said


def test_a_place_that_cannot_be_written_is_found_before_anything_is_rendered(
    desk: Desk, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        desk.generate(desk.job(), Path("/proc/nothing/out.mp4"))
    assert desk.stored() == []
    (problem,) = early_problems(tmp_path / ("x" * 300) / "out.mp4", force=False)
    assert "cannot be used: File name too long" in str(problem)


def test_a_sweep_is_a_folder_of_videos_and_a_grid(desk: Desk, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    job = desk.job(
        scales=(0.0, 0.5, 1.0), prompts=[{"prompt": PROMPT}, {"prompt": "b", "name": "b"}]
    )
    done, rendered = desk.generate(job, out)
    assert rendered == 6
    stem = "001-a-large-red-circle-moves-left-over-a-blu-seed0"
    names = [f"{name}-scale{scale}" for name in (stem, "b") for scale in ("0", "0.5", "1")]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*(f"{name}.mp4" for name in names), "grid.mp4", "grid.png"]
    )
    assert len(done) == 8
    weights = [read_provenance(out / f"b-scale{scale}.mp4").adapters for scale in ("0", "0.5", "1")]
    assert [[used.weight for used in each] for each in weights] == [[], [0.3], [0.6]]
    grid = read_mp4(out / "grid.mp4").rgb_fhwc
    assert grid.shape[0] == 9
    made_of = read_label(out / "grid.mp4")["cogvx_grid"]
    (out / "b-scale1.mp4").unlink()
    again, rendered = desk.generate(job, out)
    assert rendered == 0
    assert next(one.path.name for one in again if one.made) == "b-scale1.mp4"
    assert read_label(out / "grid.mp4")["cogvx_grid"] == made_of
    (out / "grid.mp4").unlink()
    write_mp4(out / "grid.mp4", np.zeros((1, 16, 16, 3), np.uint8), fps=8)
    with pytest.raises(ConfigError, match="is no grid of cogvx generate"):
        desk.generate(job, out)


def test_several_videos_need_a_folder(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"one file, and 2 videos are asked for; name a folder"):
        desk.generate(desk.job(scales=(0.0, 1.0)), tmp_path / "out.mp4")
    assert desk.stored() == []


def test_the_bare_base_needs_no_adapter(desk: Desk, tmp_path: Path) -> None:
    job = desk.job(adapters=(), base=str(desk.base), dtype="float32")
    done, _ = desk.generate(job, tmp_path / "out.mp4")
    found = read_provenance(done[0].path)
    assert found is not None
    assert (found.adapters, found.size, found.fps) == ((), "9x48x48", 8)


def test_every_problem_is_said_at_once(desk: Desk, tmp_path: Path) -> None:
    unrecorded = tmp_path / "old.safetensors"
    save_file(load_file(desk.adapter), unrecorded)
    job = desk.job(
        str(tmp_path / "absent.safetensors:0.3"),
        "models:/style@champion:x",
        "models:/style@champion",
        str(unrecorded),
        base=str(desk.base),
        dtype="float16",
        steps=30,
        size="49x480",
        prompts=[
            {"prompt": "a", "size": "10x48x50", "name": "x"},
            {"prompt": "b", "image": str(tmp_path / "absent.png")},
            {"prompt": "c", "name": "x"},
        ],
    )
    said = desk.problems(job)
    for part in (
        "there is no file",
        "does not name a version of the registry",
        "nothing was registered on this machine",
        "does not record its alpha",
        "overflows or loses precision",
        "sampling.steps = 30 does not divide 1000, so steps would overlap; use 25",
        'size = "49x480" is not frames x height x width',
        'x: size = "10x48x50" has frames that are not 8k + 1',
        'x: size = "10x48x50" has a side that is not a multiple of 8',
        "absent.png cannot be used",
        'name = "x" would name two videos',
    ):
        assert part in said, said
    assert said.count("sampling.steps") == 1, "what is wrong with all stands there once"


def test_without_a_base_nothing_is_guessed(desk: Desk, tmp_path: Path) -> None:
    assert "give a folder or a hub id with --base" in desk.problems(desk.job(adapters=()))
    card = toy_card(base_path="moved/far/away", base_fingerprint="0" * 64)
    moved = export_adapter(trained(desk.base), tmp_path / "moved", card=card)
    said = desk.problems(desk.job(str(moved)))
    assert 'base = "moved/far/away" is not a folder' in said
    said = desk.problems(desk.job(adapters=(), base=str(tmp_path / "nowhere")))
    assert "is not a folder on this machine; say with --base where it is" in said


def test_another_base_is_refused_before_it_is_loaded_and_both_are_named(
    desk: Desk, tmp_path: Path
) -> None:
    card = toy_card(base_path="their/base", base_fingerprint="0" * 64)
    other = export_adapter(trained(desk.base), tmp_path / "other", card=card)
    with pytest.raises(IntegrityError, match=r"their/base \(000000000000\)") as caught:
        prepare(desk.job(str(other), base=str(desk.base)), desk.here)
    assert fingerprint(desk.base, BASE_PARTS)[:12] in str(caught.value)
    said = desk.problems(desk.job(str(other), str(desk.adapter), base=str(desk.base)))
    assert "have another base each" in said


ONE, TWO = "1" * 40, "2" * 40
HUB = "zai-org/CogVideoX-5b"


def of_hub(desk: Desk, folder: Path, path: str = HUB, **card: object) -> Path:
    """An adapter whose base was only known by its name."""
    told = toy_card(base_path=path, **{"base_fingerprint": None, **card})
    return export_adapter(trained(desk.base), folder, card=told)


def in_hub_cache(desk: Desk, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The base as the hub's client keeps it, at commit ONE, which is main."""
    model = folder / "models--me--nano"
    shutil.copytree(desk.base, model / "snapshots" / ONE)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(ONE)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("huggingface_hub._snapshot_download",):
        monkeypatch.setattr(f"{name}.constants.HF_HUB_CACHE", str(folder))
    return model / "snapshots" / ONE


def test_a_base_that_the_card_knows_by_name_alone_is_not_taken_for_another(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = of_hub(desk, tmp_path / "image", "zai-org/CogVideoX-5b-I2V")
    said = desk.problems(desk.job(str(image), base=str(desk.base)))
    assert "CogVideoX-5b-I2V (bytes unknown), and this is" in said
    assert str(desk.base) in said
    folder = of_hub(desk, tmp_path / "folder", "/models/part")
    said = desk.problems(desk.job(str(folder), base=str(desk.base)))
    assert "/models/part (bytes unknown), and this is" in said
    same = of_hub(desk, tmp_path / "same")
    prepare(desk.job(str(same), base=str(desk.base)), desk.here)
    assert f"nothing proves that {desk.base}" in caplog.text


def test_the_commit_of_a_hub_id_is_pinned(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_hub_cache(desk, tmp_path / "hub", monkeypatch)
    adapter = of_hub(desk, tmp_path / "a", "me/nano")
    ready = prepare(desk.job(str(adapter)), desk.here)
    assert (ready.base.path, ready.base.revision) == ("me/nano", ONE)
    job = desk.job(str(adapter), base="me/nano", revision="main")
    assert prepare(job, desk.here).base.revision == ONE
    other = of_hub(desk, tmp_path / "other", "me/nano", base_revision=TWO)
    with pytest.raises(ConfigError, match=f"revision {TWO}|{TWO}"):
        prepare(desk.job(str(other), base="me/nano", revision=ONE), desk.here)


def test_a_revision_is_never_dropped(desk: Desk, tmp_path: Path) -> None:
    pinned = of_hub(desk, tmp_path / "pinned", base_revision=TWO)
    card = read_card(pinned)
    adapters = (FoundAdapter("a", 1.0, pinned, "0" * 64, card),)
    assert choose_base(desk.job(), adapters) == BaseChoice(HUB, TWO)
    assert choose_base(desk.job(revision="main"), adapters) == BaseChoice(HUB, "main")
    for same in (HUB, "THUDM/CogVideoX-5b"):
        assert choose_base(desk.job(base=same), adapters) == BaseChoice(same, TWO)
        with pytest.raises(ConfigError, match=rf'"{ONE}" is not the revision {TWO} of {same}'):
            choose_base(desk.job(base=same, revision=ONE), adapters)
    assert choose_base(desk.job(base="me/other"), adapters) == BaseChoice("me/other", None)
    said = desk.problems(desk.job(str(desk.adapter), revision="main"))
    assert 'revision = "main" means nothing for a folder' in said


def test_the_same_file_under_two_names_is_one_adapter(desk: Desk) -> None:
    said = desk.problems(desk.job(str(desk.adapter), str(desk.adapter.parent)))
    assert "hold the same file twice" in said


def test_a_registered_version_is_found_by_its_alias(desk: Desk, tmp_path: Path) -> None:
    registry = Registry(desk.here.mlflow_uri, desk.here.mlflow_artifacts)
    run = registry.start_run("toys", "training", tags={})
    serving = Serving(
        base=str(desk.base),
        revision=None,
        dtype="float32",
        size=VideoSize(9, 48, 48),
        fps=8,
        sampler="dpm",
        steps=1,
        guidance=1.0,
    )
    version = registry.register("style", desk.adapter, run_id=run, serving=serving)
    registry.promote("style", version.version, expected_champion=None)
    ready = prepare(desk.job("models:/style@champion:0.6"), desk.here)
    (found,) = ready.adapters
    assert (found.name, found.weight) == ("models:/style/1 (champion)", 0.6)
    assert found.sha256 == sha256_file(desk.adapter)
    same = prepare(desk.job("models:/style/1:0.6"), desk.here)
    assert keys(same) == keys(ready)
    assert keys(prepare(desk.job("models:/style:0.6"), desk.here)) == keys(ready)
    for ref, part in (
        ("models:/style@previous_champion", "style has no alias previous_champion"),
        ("models:/nobody@champion", "the registry has no model nobody"),
        ("models:/style/9", "models:/style/9 cannot be used"),
    ):
        assert part in desk.problems(desk.job(ref))


def keys(ready: Ready) -> list[str]:
    return [shot.wanted.key(ready.engine).digest for shot in ready.shots]


# First frames


@pytest.mark.parametrize("member", IMAGE_MEMBERS, ids=str)
def test_image_to_video_starts_from_a_picture(
    desk: Desk, base_of: BaseOf, tmp_path: Path, member: Member
) -> None:
    picture = tmp_path / "first.png"
    Image.new("RGB", (96, 64), "teal").save(picture)
    scale = _scale(member)
    job = desk.job(
        adapters=(),
        base=str(base_of(member)),
        dtype="float32",
        size=str(member.size),
        image_scale=scale,
    )
    assert "starts from one" in desk.problems(job)
    job = job.model_copy(update={"image": str(picture)})
    ready = prepare(job, desk.here)
    request = ready.shots[0].wanted.request
    assert request.image_hwc is not None
    assert request.image_hwc.shape == (request.size.height, request.size.width, 3)
    assert abs(request.image_hwc.astype(int) - (0, 128, 128)).max() <= 1
    assert ready.engine.image_scale == (scale or "multiplied")
    if scale:
        said = desk.problems(job.model_copy(update={"image_scale": None}))
        assert "image_scale is missing" in said


def _scale(member: Member) -> ImageScale | None:
    return "raw" if "1.5" in str(member) else None


def test_a_picture_is_refused_where_the_base_starts_from_text(desk: Desk, tmp_path: Path) -> None:
    Image.new("RGB", (96, 64), "teal").save(tmp_path / "first.png")
    said = desk.problems(desk.job(image=str(tmp_path / "first.png")))
    assert "starts from text alone; remove it" in said


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_what_nobody_says_is_as_the_variant_says(desk: Desk, member: Member) -> None:
    facts = PUBLISHED[member.name]
    job = desk.job(
        adapters=(),
        image="x" if member.image_to_video else None,
        image_scale=_scale(member) if member.image_to_video else None,
    )

    def read(_name: str, size: VideoSize) -> np.ndarray:
        return np.zeros((size.height, size.width, 3), np.uint8)

    (shot,) = find_shots(job, (), facts, read)
    request, is_new = shot.wanted.request, "1.5" in member.name
    assert str(request.size) == ("81x768x1360" if is_new else "49x480x720")
    assert request.fps == (16 if is_new else 8)
    assert request.sampling.sampler == ("ddim" if "2b" in member.name else "dpm")
    dtype = "float16" if "2b" in member.name else "bfloat16"
    assert engine_of(job, (), facts, "f").dtype == dtype
