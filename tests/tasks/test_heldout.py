"""The held-out losses of an evaluation: the trainer's own, measured once, named by all of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cogvx.cache.plan import Identities, record_paths
from cogvx.digest import sha256_file
from cogvx.evaluation.render import Arm
from cogvx.inference.batch import AdapterAtWeight
from cogvx.inference.session import Session
from cogvx.objective.heldout import HeldoutLoss, mean_loss
from cogvx.recipe import Recipe
from cogvx.runs.folder import RunFolder, RunSpec
from cogvx.store import LocalStore, MemoryStore
from cogvx.training.__main__ import main
from cogvx.variants import read_facts
from tasks.evaluation.heldout import losses_of, losses_path
from tasks.settings import Settings
from tasks.workbench import Workbench
from tests.fixtures.family import IMAGE_MEMBERS, MEMBERS, BaseOf, Member

NewRun = Callable[..., Path]
BASE = Arm("base")
TEXT_MEMBER, (_, MEMBER_15) = MEMBERS[0], IMAGE_MEMBERS
SCALES = {MEMBER_15: "raw"}
# Stores hold losses under such names; they are measured again where a name changes.
OF_BASE = "c9f0c1845b665baa8bd96cb4c84b850f9b1debdf6bb4fe98c2a0865b437680f7"
OF_HALF = "af55fe7bac69c4d706663410b50e6a27f4a99281ee51cf8ba072981b74d86ec0"


def bench_over(root: Path) -> tuple[Workbench, RunSpec]:
    """A workbench whose store has the records of a run, and the run."""
    folder = RunFolder(root)
    spec = folder.read_spec()
    store = MemoryStore()
    for name, path in record_paths((*spec.train, *spec.heldout)).items():
        store.write(path, folder.record(name).read_bytes())
    base = Path(spec.base_folder)
    bench = Workbench(
        recipe=spec.recipe,
        settings=Settings(home=root / "home", device="cpu"),
        store=store,
        dataset=LocalStore(root),
        base=base,
        base_fingerprint=spec.base_fingerprint,
        facts=read_facts(base),
        ids=Identities(vae="0" * 64, text="1" * 64),
        warnings=(),
    )
    return bench, spec


def opened(bench: Workbench) -> Session:
    return Session.open(
        bench.base,
        dtype=bench.recipe.base.dtype,
        fingerprint=bench.base_fingerprint,
        image_scale=bench.recipe.base.image_latent_scale,
    )


def never() -> Session:
    raise AssertionError("a model is loaded for losses that are kept")


@pytest.mark.parametrize("member", [TEXT_MEMBER, *IMAGE_MEMBERS], ids=str)
def test_an_arm_has_the_losses_that_its_trainer_measured_and_has_them_for_good(
    member: Member, new_run: NewRun, base_of: BaseOf
) -> None:
    scale = SCALES.get(member)
    root = new_run(base_of(member), size=member.size, image_latent_scale=scale, steps=4)
    assert main([str(root)]) == 0
    bench, spec = bench_over(root)
    outcome, file = RunFolder(root).read_outcome(), RunFolder(root).adapter_file
    session = opened(bench)
    challenger = Arm("challenger", (AdapterAtWeight(sha256_file(file), file),))
    means = []
    for arm in (challenger, BASE):  # which is the bare base again afterwards
        losses = losses_of(bench, arm, spec.heldout, lambda: session)
        assert losses_of(bench, arm, spec.heldout, never) == losses
        means.append(mean_loss(losses))
    assert means[0] == pytest.approx(outcome.heldout_after, rel=1e-5)
    assert means[1] == pytest.approx(outcome.heldout_before, rel=1e-6)
    assert means[0] != pytest.approx(means[1], rel=1e-4)
    assert len(list(bench.store.entries("heldout/"))) == 2


def test_losses_of_text_to_video_bases_lie_where_they_always_lay(
    new_run: NewRun, base_of: BaseOf
) -> None:
    bench, spec = bench_over(new_run(base_of(TEXT_MEMBER), size=TEXT_MEMBER.size))
    bench = replace(bench, base_fingerprint="0" * 64, recipe=with_train(bench, heldout_strata=8))
    windows = [
        sample.model_copy(
            update={"clip": f"{n}.mp4", "latents": str(n) * 64, "prompt": "a" * 64, "images": ()}
        )
        for n, sample in enumerate(spec.heldout, start=1)
    ]
    half = Arm("challenger", (AdapterAtWeight("f" * 64, Path("file"), 0.5),))
    assert losses_path(bench, BASE, windows) == f"heldout/c9/{OF_BASE}.json"
    assert losses_path(bench, half, windows) == f"heldout/af/{OF_HALF}.json"


def test_first_frames_and_their_scale_are_in_the_name_of_an_image_base(
    new_run: NewRun, base_of: BaseOf
) -> None:
    root = new_run(base_of(MEMBER_15), size=MEMBER_15.size, image_latent_scale="raw")
    bench, spec = bench_over(root)
    first, second = spec.heldout

    def name(scale: str = "raw", **changes: object) -> str:
        base = bench.recipe.base.model_copy(update={"image_latent_scale": scale})
        other = replace(bench, recipe=bench.recipe.model_copy(update={"base": base}))
        return losses_path(other, BASE, [first.model_copy(update=changes), second])

    shown, *others = first.images
    assert len({name(), name("divided"), name("multiplied")}) == 3
    assert name(images=(others[0], *others)) != name()
    assert name(images=(shown,)) == name(), "only the first draw is looked at"


def test_only_the_first_frame_that_is_shown_is_fetched(new_run: NewRun, base_of: BaseOf) -> None:
    member = IMAGE_MEMBERS[0]
    bench, spec = bench_over(new_run(base_of(member), size=member.size))
    for sample in spec.heldout:
        for path in record_paths([sample]).values():
            if any(path.endswith(f"{image}.safetensors") for image in sample.images[1:]):
                bench.store.delete(path)
    losses: tuple[HeldoutLoss, ...] = losses_of(bench, BASE, spec.heldout, lambda: opened(bench))
    assert len(losses) == len(spec.heldout) * bench.recipe.train.heldout_strata


def with_train(bench: Workbench, **changes: object) -> Recipe:
    train = bench.recipe.train.model_copy(update=changes)
    return bench.recipe.model_copy(update={"train": train})
