"""A list of videos is rendered once, one by one, whatever stops it and whoever asks again."""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cogvx.adapters.export import export_adapter
from cogvx.digest import sha256_bytes, sha256_file
from cogvx.errors import IntegrityError
from cogvx.inference.batch import (
    AdapterAtWeight,
    Failed,
    Hooks,
    Made,
    Wanted,
    render_videos,
    try_videos,
)
from cogvx.inference.memory import Memory
from cogvx.inference.request import Request, Sampling
from cogvx.inference.session import Session
from cogvx.inference.video_key import Engine
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.mp4 import read_mp4, write_mp4
from cogvx.shapes import VideoSize
from cogvx.store import LocalStore, MemoryStore, ObjectStore
from cogvx.variants import ImageScale
from tests.adapters.toys import toy_card, trained
from tests.fixtures.family import IMAGE_MEMBERS, TEXT_TOKENS, TEXT_WIDTH, BaseOf, Member

REQUEST = Request(
    prompt="a large red circle moves left over a blue background",
    seed=1,
    size=VideoSize(9, 48, 48),
    fps=8,
    sampling=Sampling(steps=1, guidance=1.0, sampler="dpm"),
)
SEEDS = (1, 2, 3)


class StoppedError(Exception):
    """As a person's Ctrl-C, or the end of a machine."""


class Bench:
    """One loaded base, what it was asked for, and two adapters."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.base = base
        self.engine = Engine(fingerprint(base, BASE_PARTS), "float32")
        self.asked: list[Request] = []
        self.opened = 0
        self._open = functools.cache(self._load)
        card = toy_card(base_fingerprint=self.engine.base_fingerprint)
        files = [
            export_adapter(trained(base, seed=seed), folder / str(seed), card=card)
            for seed in (1, 2)
        ]
        self.one, self.two = (AdapterAtWeight(sha256_file(path), path) for path in files)

    def open(self) -> Session:
        self.opened += 1
        return self._open()

    def open_anew(self, memory: Memory) -> Session:
        self.opened += 1
        return self._load(memory)

    def _load(self, memory: Memory | None = None) -> Session:
        asked = self.asked

        class Counting(Session):
            def generate(self, request: Request, **more: object) -> np.ndarray:
                asked.append(request)
                return super().generate(request, **more)

        return Counting.open(
            self.base,
            dtype="float32",
            fingerprint=self.engine.base_fingerprint,
            memory=memory or Memory(),
        )

    def render(
        self, wanted: list[Wanted], store: ObjectStore, work: Path, **more: object
    ) -> list[Made]:
        """Those that were rendered now are in `asked`."""
        self.asked.clear()
        self.opened = 0
        more = {"engine": self.engine, **more}
        return list(render_videos(self.open, wanted, store=store, work=work, **more))


@pytest.fixture(scope="module")
def bench(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(nano_base, tmp_path_factory.mktemp("adapters"))


def sweep(bench: Bench, *weights: float) -> list[Wanted]:
    """Every seed at every weight, seed by seed."""
    return [
        Wanted(replace(REQUEST, seed=seed), (replace(bench.one, weight=weight),))
        for seed in SEEDS
        for weight in weights
    ]


def frames(made: Made) -> np.ndarray:
    return read_mp4(made.path).rgb_fhwc


def test_what_exists_is_never_rendered_again(bench: Bench, tmp_path: Path) -> None:
    store = MemoryStore()
    first = bench.render(sweep(bench, 0.5), store, tmp_path)
    assert [made.fresh for made in first] == [True] * 3
    assert len(bench.asked) == 3
    again = bench.render(sweep(bench, 0.5), store, tmp_path)
    assert [made.fresh for made in again] == [False] * 3
    assert (bench.asked, bench.opened) == ([], 0)
    assert [made.key for made in again] == [made.key for made in first]
    more = bench.render(sweep(bench, 0.5, 1.0), store, tmp_path)
    assert len(bench.asked) == 3
    assert sum(made.fresh for made in more) == 3


def test_two_that_render_the_same_at_once_do_not_break_each_other(
    bench: Bench, tmp_path: Path
) -> None:
    class Slow(MemoryStore):
        """While one uploads its video, another renders it in the same place from start to end."""

        def upload(self, path: Path, key: str) -> None:
            before = path.read_bytes()
            other = MemoryStore()
            (made,) = list(
                render_videos(bench.open, wanted, engine=bench.engine, store=other, work=tmp_path)
            )
            assert other.objects == {made.key.path: before}
            super().upload(path, key)

    wanted, store = [Wanted(REQUEST)], Slow()
    (made,) = bench.render(wanted, store, tmp_path)
    assert set(store.objects) == {made.key.path}
    assert [path for path in tmp_path.iterdir() if path.name != "videos"] == []


def test_each_video_has_its_own_mix_and_the_session_is_left_as_it_was(
    bench: Bench, tmp_path: Path
) -> None:
    plain, only_two, both = (
        Wanted(REQUEST),
        Wanted(REQUEST, (bench.two,)),
        Wanted(REQUEST, (bench.one, replace(bench.two, weight=-0.5))),
    )
    wanted = [both, plain, only_two, both, Wanted(REQUEST, (replace(bench.one, weight=0.0),))]
    store = LocalStore(tmp_path / "store")
    made = {one.number: one for one in bench.render(wanted, store, tmp_path)}
    assert len(bench.asked) == 3, "one is wanted twice, and weight 0 is the base"
    assert made[0].key == made[3].key
    assert made[1].key == made[4].key
    session = bench.open()
    base = session.generate(REQUEST)
    assert not np.array_equal(frames(made[0]), frames(made[1]))
    session.attach("one", bench.one.path)
    session.attach("two", bench.two.path)
    for number, weights in ((0, {"one": 1.0, "two": -0.5}), (1, {}), (2, {"two": 1.0})):
        session.use(weights)
        write_mp4(tmp_path / "expected.mp4", session.generate(REQUEST), fps=8)
        assert made[number].path.read_bytes() == (tmp_path / "expected.mp4").read_bytes()
    session.use({})
    assert np.array_equal(session.generate(REQUEST), base)
    for name in ("one", "two"):
        session.detach(name)


def test_order_and_company_change_no_byte(bench: Bench, tmp_path: Path) -> None:
    wanted = sweep(bench, 0.0, 1.0)[:4]
    here, there = LocalStore(tmp_path / "a"), LocalStore(tmp_path / "b")
    bench.render(wanted, here, tmp_path)
    for one in reversed(wanted):
        bench.render([one], there, tmp_path)
    objects = [{e.key: store.read(e.key) for e in store.entries()} for store in (here, there)]
    assert objects[0] == objects[1]
    assert len(objects[0]) == 4


@pytest.mark.parametrize("after", [1, 2])
def test_a_batch_that_is_stopped_goes_on_with_the_next_video(
    bench: Bench, tmp_path: Path, after: int
) -> None:
    def stop(done: int, _wanted: int) -> None:
        if done == after:
            raise StoppedError

    store = LocalStore(tmp_path / "store")
    with pytest.raises(StoppedError):
        bench.render(sweep(bench, 1.0), store, tmp_path, hooks=Hooks(videos=stop))
    kept = {info.key: store.read(info.key) for info in store.entries("videos/")}
    assert len(kept) == after
    made = bench.render(sweep(bench, 1.0), store, tmp_path)
    assert len(bench.asked) == 3 - after
    assert [one.fresh for one in made] == [False] * after + [True] * (3 - after)
    assert all(store.read(key) == data for key, data in kept.items())


def test_whoever_stops_taking_videos_leaves_a_clean_session(bench: Bench, tmp_path: Path) -> None:
    videos = render_videos(
        bench.open, sweep(bench, 1.0), engine=bench.engine, store=MemoryStore(), work=tmp_path
    )
    assert next(videos).fresh
    videos.close()
    session = bench.open()
    session.attach("adapter0", bench.one.path)  # the name is free
    session.detach("adapter0")


def test_progress_counts_videos_and_steps(bench: Bench, tmp_path: Path) -> None:
    videos: list[tuple[int, int]] = []
    steps: list[tuple[int, int]] = []
    hooks = Hooks(videos=lambda *seen: videos.append(seen), steps=lambda *seen: steps.append(seen))
    wanted = sweep(bench, 1.0)[:2]
    store = MemoryStore()
    bench.render(wanted[:1], store, tmp_path)
    bench.render([*wanted, wanted[1]], store, tmp_path, hooks=hooks)
    assert videos == [(1, 3), (3, 3)]
    assert steps == [(1, 1)]


def test_fused_videos_are_others_and_leave_the_base_alone(bench: Bench, tmp_path: Path) -> None:
    session = bench.open()
    before = session.generate(REQUEST)
    engine = replace(bench.engine, fused=True)
    store = MemoryStore()
    wanted = sweep(bench, 0.0, 1.0)[:4]
    plain = bench.render(wanted, store, tmp_path)
    fused = bench.render(wanted, store, tmp_path, engine=engine)
    assert len(bench.asked) == 2, "at weight 0 nothing is fused"
    for one, other in zip(plain, fused, strict=True):
        assert abs(frames(one).astype(int) - frames(other)).max() <= 8
    assert session.fused_at is None
    assert np.array_equal(session.generate(REQUEST), before)


def test_in_8_bits_every_mix_has_a_base_of_its_own(bench: Bench, tmp_path: Path) -> None:
    engine = replace(bench.engine, base_weights="int8")
    memory = Memory(base_weights="int8")
    bench.asked.clear()
    bench.opened = 0
    wanted = [one for one in sweep(bench, 0.0, 1.0) if one.request.seed < 3]
    made = list(
        render_videos(
            lambda: bench.open_anew(memory),
            wanted,
            engine=engine,
            store=MemoryStore(),
            work=tmp_path,
        )
    )
    assert (len(made), bench.opened) == (4, 2)
    by_number = {one.number: frames(one) for one in made}
    assert not np.array_equal(by_number[0], by_number[1])


def test_a_video_that_is_not_finite_is_named_and_the_others_follow(
    bench: Bench, tmp_path: Path
) -> None:
    class Broken(Session):
        def generate(self, request: Request, **more: object) -> np.ndarray:
            if request.seed == 2:
                raise IntegrityError("not finite for seed 2")
            return super().generate(request, **more)

    def open_session() -> Session:
        return Broken.open(bench.base, dtype="float32")

    store, wanted = MemoryStore(), [Wanted(replace(REQUEST, seed=seed)) for seed in SEEDS]
    rest = {"engine": bench.engine, "store": store, "work": tmp_path}
    tried = list(try_videos(open_session, wanted, **rest))
    assert [type(one) for one in tried] == [Made, Failed, Made]
    assert len(store.objects) == 2
    with pytest.raises(IntegrityError, match="not finite for seed 2"):
        list(render_videos(open_session, wanted, **rest))


def test_an_adapter_of_another_base_ends_the_batch(bench: Bench, tmp_path: Path) -> None:
    card = toy_card(base_fingerprint="0" * 64)
    path = export_adapter(trained(bench.base), tmp_path / "other", card=card)
    wanted = [Wanted(REQUEST, (AdapterAtWeight(sha256_file(path), path),))]
    with pytest.raises(IntegrityError, match="its card names the base"):
        bench.render(wanted, MemoryStore(), tmp_path)
    assert bench.asked == []


@pytest.mark.parametrize("member", IMAGE_MEMBERS, ids=str)
def test_image_to_video_is_kept_under_its_first_frame(
    base_of: BaseOf, tmp_path: Path, member: Member
) -> None:
    scale: ImageScale = "raw" if "1.5" in member.name else "multiplied"
    named = fingerprint(base_of(member), BASE_PARTS)
    engine = Engine(named, "float32", image_scale=scale)
    pictures = [
        np.full((member.size.height, member.size.width, 3), light, np.uint8) for light in (40, 200)
    ]
    wanted = [Wanted(replace(REQUEST, size=member.size, image_hwc=picture)) for picture in pictures]

    def open_session() -> Session:
        return Session.open(
            base_of(member),
            dtype="float32",
            fingerprint=named,
            image_scale=scale,
            prompts=lambda _prompt, _encode: torch.zeros(TEXT_TOKENS, TEXT_WIDTH),
        )

    store = LocalStore(tmp_path / "store")
    dark, light = render_videos(open_session, wanted, engine=engine, store=store, work=tmp_path)
    assert dark.key.image == sha256_bytes(pictures[0].tobytes())
    assert not np.array_equal(frames(dark), frames(light))
    again = render_videos(open_session, wanted[::-1], engine=engine, store=store, work=tmp_path)
    assert [one.fresh for one in again] == [False, False]
