"""A video is rendered once, whoever asks for it and however often the work is interrupted."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cogvx.evaluation.canary import require_effect
from cogvx.evaluation.proof import proof_of
from cogvx.evaluation.render import (
    Arm,
    _request,
    _wanted,
    proof_of_arm,
    remove_damaged,
    render_arm,
    video_key,
)
from cogvx.evaluation.scores import Scores
from cogvx.evaluation.scoring import score_arm
from cogvx.inference.batch import Made, try_videos
from cogvx.mp4 import read_mp4
from cogvx.store import LocalStore, MemoryStore

WANTED = 4


def render(counted, arm, suite, setting, store, work, **more):
    footage = render_arm(counted, arm, suite, setting=setting, store=store, work=work, **more)
    assert footage.unmade == ()
    return footage.videos


def test_a_second_evaluation_renders_nothing_and_loads_no_model(
    counted, toy_suite, toy_setting, tmp_path
):
    store = MemoryStore()
    first = render(counted, Arm("base"), toy_suite, toy_setting, store, tmp_path)
    assert [video.fresh for video in first] == [True] * WANTED
    assert len(counted.generated) == WANTED
    opened = counted.opened
    second = render(counted, Arm("base"), toy_suite, toy_setting, store, tmp_path)
    assert counted.opened == opened
    assert [video.fresh for video in second] == [False] * WANTED
    assert [video.key for video in second] == [video.key for video in first]


def test_a_new_challenger_renders_exactly_its_own_arm(
    counted, toy_suite, toy_setting, toy_adapters, tmp_path
):
    store = MemoryStore()
    one, two = (Arm(f"challenger v{n}", (a,)) for n, a in enumerate(toy_adapters))
    for arm in (Arm("base"), one):
        render(counted, arm, toy_suite, toy_setting, store, tmp_path)
    before = set(store.objects)
    for arm in (Arm("base"), one, two):
        render(counted, arm, toy_suite, toy_setting, store, tmp_path)
    new = {key for key in set(store.objects) - before if key.startswith("videos/")}
    assert len(new) == WANTED
    assert new == {
        video_key(two, toy_suite, prompt, seed, toy_setting).path
        for prompt in toy_suite.prompts
        for seed in toy_suite.seeds
    }


def test_an_interrupted_arm_goes_on_with_the_next_video(counted, toy_suite, toy_setting, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(done, _total):
        if done == 2:
            raise StoppedError

    store = LocalStore(tmp_path / "store")
    with pytest.raises(StoppedError):
        render(counted, Arm("base"), toy_suite, toy_setting, store, tmp_path, on_progress=stop)
    kept = {info.key: store.read(info.key) for info in store.entries("videos/")}
    assert len(kept) == 2
    videos = render(counted, Arm("base"), toy_suite, toy_setting, store, tmp_path)
    assert [video.fresh for video in videos] == [False, False, True, True]
    assert all(store.read(key) == data for key, data in kept.items())


def test_a_video_does_not_depend_on_what_was_rendered_before(
    counted, toy_suite, toy_setting, toy_adapters, tmp_path
):
    arm = Arm("challenger", (toy_adapters[0],))
    alone, after = MemoryStore(), MemoryStore()
    last = toy_suite.model_copy(
        update={"prompts": toy_suite.prompts[1:], "seeds": toy_suite.seeds[1:]}
    )
    (single,) = render(counted, arm, last, toy_setting, alone, tmp_path / "a")
    render(counted, Arm("base"), toy_suite, toy_setting, after, tmp_path / "b")
    *_, same = render(counted, arm, toy_suite, toy_setting, after, tmp_path / "b")
    assert single.key == same.key
    assert single.path.read_bytes() == same.path.read_bytes()


def test_an_arm_at_weight_zero_is_the_base(counted, toy_suite, toy_setting, toy_adapters, tmp_path):
    store = MemoryStore()
    base = render(counted, Arm("base"), toy_suite, toy_setting, store, tmp_path)
    silent = Arm("silent", (replace(toy_adapters[0], weight=0.0),))
    assert [v.key for v in render(counted, silent, toy_suite, toy_setting, store, tmp_path)] == [
        video.key for video in base
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda suite, setting: (suite, replace(setting, base_fingerprint="1" * 64)),
        lambda suite, setting: (suite, replace(setting, dtype="bfloat16")),
        lambda suite, setting: (suite, replace(setting, tiling=True)),
        lambda suite, setting: (
            suite,
            replace(setting, video=setting.video.model_copy(update={"fps": 16})),
        ),
        *(
            lambda suite, setting, field=field, value=value: (
                suite.model_copy(
                    update={"sampling": suite.sampling.model_copy(update={field: value})}
                ),
                setting,
            )
            for field, value in (
                ("steps", 4),
                ("guidance", 3.0),
                ("sampler", "ddim"),
                ("dynamic_guidance", True),
                ("negative_prompt", "blurry"),
            )
        ),
    ],
)
def test_whatever_changes_the_picture_changes_the_name(change, toy_suite, toy_setting):
    prompt = toy_suite.prompts[0]
    suite, setting = change(toy_suite, toy_setting)
    arm = Arm("base")
    assert (
        video_key(arm, suite, prompt, 1, setting).digest
        != video_key(arm, toy_suite, prompt, 1, toy_setting).digest
    )


def test_the_first_frame_changes_the_name(toy_suite, toy_setting, tmp_path):
    prompt, keys = toy_suite.prompts[0], []
    for shade in (0, 200):
        path = tmp_path / f"{shade}.png"
        Image.new("RGB", (96, 96), (shade, 0, 0)).save(path)
        pictured = prompt.model_copy(update={"image": str(path)})
        keys.append(video_key(Arm("base"), toy_suite, pictured, 1, toy_setting).digest)
    assert len({*keys, video_key(Arm("base"), toy_suite, prompt, 1, toy_setting).digest}) == 3


def test_prompts_are_rendered_with_seeds_of_their_own(counted, toy_suite, toy_setting, tmp_path):
    first, *others = toy_suite.prompts
    own = first.model_copy(update={"seeds": (9,)})
    suite = toy_suite.model_copy(update={"prompts": (own, *others)})
    videos = render(counted, Arm("base"), suite, toy_setting, MemoryStore(), tmp_path)
    assert [(video.prompt_id, video.seed) for video in videos] == [
        (first.id, 9),
        *((prompt.id, seed) for prompt in others for seed in toy_suite.seeds),
    ]


def test_names_of_arms_and_prompts_do_not_change_the_video(toy_suite, toy_setting, toy_adapters):
    prompt = toy_suite.prompts[0]
    renamed = prompt.model_copy(update={"id": "other", "group": "off_domain"})
    one = video_key(Arm("a", toy_adapters), toy_suite, prompt, 1, toy_setting)
    two = video_key(Arm("b", toy_adapters[::-1]), toy_suite, renamed, 1, toy_setting)
    assert one.digest == two.digest
    assert one.path == f"videos/{one.digest[:2]}/{one.digest}.mp4"


def test_rendered_files_are_what_the_suite_asked_for(
    counted, toy_suite, toy_setting, toy_adapters, tmp_path
):
    arm = Arm("challenger", (toy_adapters[0],))
    videos = render(counted, arm, toy_suite, toy_setting, MemoryStore(), tmp_path)
    result = score_arm(arm, videos, suite=toy_suite, scores=Scores(toy_setting.video))
    assert [video.faults for video in result.videos] == [()] * WANTED
    assert result.adapters[0].sha256 == toy_adapters[0].sha256
    other = toy_setting.video.model_copy(update={"frames": 17, "fps": 16})
    (fault, rate), *_ = [
        video.faults
        for video in score_arm(arm, videos, suite=toy_suite, scores=Scores(other)).videos
    ]
    assert fault == "is 9x48x48, not 17x48x48"
    assert "8 frames a second, not 16" in rate


def test_an_adapter_that_changes_nothing_is_found_before_any_video(
    counted, toy_suite, toy_setting, idle_adapter, tmp_path
):
    store = MemoryStore()
    arm = Arm("challenger", (idle_adapter,))
    footage = render_arm(counted, arm, toy_suite, setting=toy_setting, store=store, work=tmp_path)
    assert footage.videos == ()
    assert len(footage.unmade) == WANTED
    assert "challenger: its adapter changes nothing" in footage.unmade[0].why
    assert not store.objects
    assert counted.generated == ()
    session = counted()
    session.attach("adapter0", idle_adapter.path)  # the name is free again
    session.detach("adapter0")


def generated_for_a_person(counted, arm, suite, setting, store, work):
    """The videos of a suite, made without looking whether the adapters act."""
    wanted = [_wanted(arm, suite, *shot, setting) for shot in suite.shots]
    made = try_videos(counted, wanted, engine=setting.engine, store=store, work=work)
    assert all(isinstance(each, Made) for each in made)


def test_videos_that_a_person_made_count_when_their_adapter_is_proved(
    counted, toy_suite, toy_setting, toy_adapters, tmp_path
):
    store, arm = MemoryStore(), Arm("challenger v1", (toy_adapters[0],))
    generated_for_a_person(counted, arm, toy_suite, toy_setting, store, tmp_path)
    opened = counted.opened
    videos = render(counted, arm, toy_suite, toy_setting, store, tmp_path)
    assert [video.fresh for video in videos] == [False] * WANTED
    assert counted.opened == opened + 1
    assert not proof_of_arm(arm, toy_setting, store).is_missing
    render(counted, arm, toy_suite, toy_setting, store, tmp_path)
    assert counted.opened == opened + 1


def test_videos_that_a_person_made_with_an_adapter_without_effect_do_not_count(
    counted, toy_suite, toy_setting, idle_adapter, tmp_path
):
    store, arm = MemoryStore(), Arm("challenger v1", (idle_adapter,))
    generated_for_a_person(counted, arm, toy_suite, toy_setting, store, tmp_path)
    footage = render_arm(counted, arm, toy_suite, setting=toy_setting, store=store, work=tmp_path)
    assert footage.videos == ()
    assert {"its adapter changes nothing" in each.why for each in footage.unmade} == {True}
    assert len(footage.unmade) == WANTED
    assert proof_of_arm(arm, toy_setting, store).is_missing


def test_a_proof_is_of_this_base_these_files_and_these_weights(toy_setting, toy_adapters):
    store = MemoryStore()
    (one, two), engine = toy_adapters, toy_setting.engine

    def path(*adapters, engine=engine):
        return proof_of(adapters, engine, store=store).path

    plain = path((one.sha256, 1.0))
    assert path((one.sha256, 1), (two.sha256, 0.0)) == plain
    others = [
        path((one.sha256, 0.5)),
        path((two.sha256, 1.0)),
        path((one.sha256, 1.0), (two.sha256, 1.0)),
        path((one.sha256, 1.0), engine=replace(engine, base_fingerprint="f" * 64)),
        path((one.sha256, 1.0), engine=replace(engine, dtype="bfloat16")),
    ]
    assert len({plain, *others}) == 6
    assert path() is None
    assert path((one.sha256, 0.0)) is None


def test_the_canary_leaves_the_base_as_it_was(counted, toy_suite, toy_setting, toy_adapters):

    session = counted()
    request = _request(toy_suite, toy_suite.prompts[0], 1, toy_setting)
    before = session.generate(request)
    session.attach("one", toy_adapters[0].path)
    require_effect(session, {"one": 1.0}, "challenger")
    assert np.array_equal(session.generate(request), before)
    session.detach("one")


def test_a_damaged_video_is_removed_and_rendered_again(counted, toy_suite, toy_setting, tmp_path):
    store = LocalStore(tmp_path / "store")
    first = render(counted, Arm("base"), toy_suite, toy_setting, store, tmp_path)
    assert remove_damaged(first, store) == ()
    whole = {video.path: video.path.read_bytes() for video in first}
    for path, data in whole.items():
        path.write_bytes(data[: len(data) // 2])
    assert remove_damaged(first, store) == ()  # it is the decoder that fails
    for video in first[1:]:
        video.path.write_bytes(whole[video.path])
    assert remove_damaged(first, store) == (first[0].key,)
    second = render(counted, Arm("base"), toy_suite, toy_setting, store, tmp_path)
    assert [video.fresh for video in second] == [True, False, False, False]
    assert {video.path: video.path.read_bytes() for video in second} == whole


def test_scores_come_from_the_stored_file(counted, toy_suite, toy_setting, tmp_path):
    videos = render(counted, Arm("base"), toy_suite, toy_setting, MemoryStore(), tmp_path)
    result = score_arm(Arm("base"), videos, suite=toy_suite, scores=Scores(toy_setting.video))
    rgb_fhwc = read_mp4(videos[0].path).rgb_fhwc.astype(np.float64)
    change = np.abs(np.diff(rgb_fhwc, axis=0)).mean()
    flicker = result.values("temporal_flickering")["circle", 1]
    assert flicker == pytest.approx((255 - change) / 255, abs=1e-6)
