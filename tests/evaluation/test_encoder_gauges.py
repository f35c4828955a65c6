"""What networks say of an arm equals each definition, written out over networks in one piece."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.spatial.distance import cosine as cosine_distance
from transformers import CLIPModel, Dinov2Model, PreTrainedTokenizerFast, SiglipModel

from cogvx.data.manifest import Clip, ClipFacts
from cogvx.digest import sha256_file
from cogvx.errors import ConfigError
from cogvx.evaluation.encoder_gauges import DomainSimilarity, encoder_gauges, look_at_clips
from cogvx.evaluation.gauge import Seen
from cogvx.metrics.encoder_set import open_encoder_set
from cogvx.metrics.learned import LEARNED
from cogvx.metrics.mmd import discrepancy
from cogvx.metrics.preparation import clip_frames, dino_frames, siglip_frames
from cogvx.metrics.registry import metrics
from cogvx.mp4 import read_mp4, write_mp4
from cogvx.shapes import VideoSize
from cogvx.store import MemoryStore
from tests.evaluation.builders import suite_of
from tests.metrics.networks import build_networks

MIDDLE = [0, 1, 3, 4, 6, 7, 9, 10]  # of twelve frames
SUITE = suite_of(
    seeds=[1, 2, 3],
    prompts=[
        {"id": "ring", "prompt": "A large red circle rises. Then it falls.", "group": "domain"},
        {"id": "cross", "prompt": "a cross", "eval_text": "a blue cross", "group": "off_domain"},
        {"id": "known", "prompt": "a small square", "group": "train_caption"},
    ],
)
TEXTS = {"ring": "a large red circle rises.", "cross": "a blue cross", "known": "a small square"}


def drawn(seed, frames=12):
    """Blobs of some colour that drift."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:40, :56]
    waves = [
        [
            127 + 100 * np.sin(down * pace + across * tilt + phase + frame / 3)
            for pace, tilt, phase in rng.uniform(0.05, 0.5, size=(3, 3))
        ]
        for frame in range(1)
    ]
    still = np.stack(waves[0], axis=-1)
    return np.stack([np.roll(still, frame, axis=1) for frame in range(frames)]).astype(np.uint8)


def window(key, seed, split):
    facts = ClipFacts(width=56, height=40, frames=12, fps=8.0, codec="h264")
    return Clip(
        key=key,
        sha256=f"{seed:064d}",
        caption=key,
        facts=facts,
        size=VideoSize(12, 40, 56),
        split=split,
        start_frame=seed,
    )


HELDOUT = [window("held-a", 101, "heldout"), window("held-b", 102, "heldout")]
HELDOUT += [window("held-b", 103, "heldout")]
TRAIN = [window("clip-a", 201, "train"), window("clip-b", 202, "train")]


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    return build_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A file for every prompt and seed; that of a training clip is a copy of one."""
    folder = tmp_path_factory.mktemp("videos")
    paths = {}
    for number, (prompt, seed) in enumerate(SUITE.shots):
        paths[prompt.id, seed] = folder / f"{prompt.id}-{seed}.mp4"
        copied = (prompt.id, seed) == ("known", 2)
        write_mp4(paths[prompt.id, seed], drawn(202 if copied else number), fps=8)
    return paths


def rows_of(windows, encoder):
    return [(clip.key, encoder.features(drawn(clip.start_frame))) for clip in windows]


def look(named, store=None):
    return look_at_clips(
        open_encoder_set(named),
        SUITE,
        heldout=HELDOUT,
        train=TRAIN,
        rows_of=rows_of,
        store=store or MemoryStore(),
    )


def seen_of(videos, decode=read_mp4):
    for prompt, seed in SUITE.shots:
        path = videos[prompt.id, seed]
        yield Seen(prompt=prompt, seed=seed, path=path, sha256=sha256_file(path), decode=decode)


def measure(gauges, videos, decode=read_mp4):
    values = {}
    for seen in seen_of(videos, decode):
        found = {name: value for gauge in gauges for name, value in gauge.look(seen).items()}
        values[seen.prompt.id, seen.seed] = found
    findings = [gauge.findings() for gauge in gauges]
    readings = {
        (reading.metric, reading.unit): reading.value
        for each in findings
        for reading in each.readings
    }
    neighbours = {
        (near.metric, near.prompt, near.seed): (near.clip, near.similarity)
        for each in findings
        for near in each.neighbours
    }
    return values, readings, neighbours


@pytest.fixture(scope="module")
def measured(named, videos):
    return measure(encoder_gauges(look(named)), videos)


class Whole:
    """Networks in one piece, as transformers loads them; features frame by frame, in float64."""

    def __init__(self, named):
        self.named = named
        self.models = {
            "clip": CLIPModel.from_pretrained(named["clip"]).eval(),
            "siglip2": SiglipModel.from_pretrained(named["siglip2"]).eval(),
            "dinov2": Dinov2Model.from_pretrained(named["dinov2"]).eval(),
        }

    def frames(self, kind, rgb):
        model, found = self.models[kind], []
        for frame in rgb:
            pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
            with torch.no_grad():
                if kind == "dinov2":
                    row = model(pixel_values=dino_frames(pixels, 224)).last_hidden_state[:, 0]
                elif kind == "clip":
                    row = plain(model.get_image_features(pixel_values=clip_frames(pixels, 32)))
                else:
                    row = plain(model.get_image_features(pixel_values=siglip_frames(pixels, 32)))
            found.append(row[0].double().numpy())
        return found

    def text(self, kind, text):
        file = str(Path(self.named[kind]) / "tokenizer.json")
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=file, pad_token="<pad>")
        filling = {"padding": "max_length", "max_length": 64} if kind == "siglip2" else {}
        ids = tokenizer(text, return_tensors="pt", **filling).input_ids
        with torch.no_grad():
            return plain(self.models[kind].get_text_features(input_ids=ids))[0].double().numpy()


def plain(output):
    """transformers 5 wraps what transformers 4 returns."""
    return getattr(output, "pooler_output", output)


def cosine(one, other):
    return 1 - cosine_distance(one, other)


def direction(rows):
    total = sum(row / np.linalg.norm(row) for row in rows)
    return total / np.linalg.norm(total)


@pytest.fixture(scope="module")
def whole(named):
    return Whole(named)


@pytest.fixture(scope="module")
def decoded(videos):
    return {key: read_mp4(path).rgb_fhwc for key, path in videos.items()}


def test_every_metric_of_networks_is_measured(measured, named):
    values, readings, _ = measured
    expected = {metric.name for metric in LEARNED if metric.kind == "video"}
    assert all(set(found) == expected for found in values.values())
    prompts = {metric.name for metric in LEARNED if metric.kind == "prompt"}
    assert {name for name, _ in readings} == prompts
    assert set(metrics()) >= expected | prompts
    assert {metric.encoder for metric in LEARNED} == set(named)


@pytest.mark.parametrize("kind", ["clip", "siglip2"])
def test_fit_to_the_text_is_the_mean_cosine_of_eight_frames(kind, measured, whole, decoded):
    values = measured[0]
    for (prompt, seed), rgb in decoded.items():
        text = whole.text(kind, TEXTS[prompt])
        expected = np.mean([cosine(row, text) for row in whole.frames(kind, rgb[MIDDLE])])
        found = values[prompt, seed][f"text_alignment_{kind}"]
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_likeness_variety_and_memory_are_their_definitions(kind, measured, whole, decoded, named):
    values, readings, neighbours = measured
    rows = {key: whole.frames(kind, rgb[MIDDLE]) for key, rgb in decoded.items()}
    windows = {
        clip.start_frame: whole.frames(kind, drawn(clip.start_frame)[MIDDLE])
        for clip in HELDOUT + TRAIN
    }
    centre = direction(
        [direction(windows[101]), direction([direction(windows[102]), direction(windows[103])])]
    )
    for key, frames in rows.items():
        expected = cosine(direction(frames), centre)
        assert values[key][f"domain_similarity_{kind}"] == pytest.approx(expected, abs=1e-5)
        best = {
            clip.key: max(
                cosine(frame, other)
                for frame, other in itertools.product(frames, windows[clip.start_frame])
            )
            for clip in TRAIN
        }
        name = f"memorisation_{kind}"
        assert values[key][name] == pytest.approx(max(best.values()), abs=1e-5)
        clip, similarity = neighbours[name, *key]
        assert similarity == values[key][name]
        assert best[clip] == pytest.approx(max(best.values()), abs=1e-6)
    assert neighbours[f"memorisation_{kind}", "known", 2][0] == "clip-b"
    for prompt in ("ring", "cross"):
        each = [direction(rows[prompt, seed]) for seed in (1, 2, 3)]
        expected = np.mean([1 - cosine(*pair) for pair in itertools.combinations(each, 2)])
        assert readings[f"diversity_{kind}", prompt] == pytest.approx(expected, abs=1e-5)
    assert (f"diversity_{kind}", "known") not in readings  # a caption that was trained on
    reached = [
        max(
            cosine(frame, other)
            for clip in TRAIN
            for frame, other in itertools.product(windows[held], windows[clip.start_frame])
        )
        for held in (101, 102, 103)
    ]
    limits = look({kind: named[kind]}).limits
    assert set(limits) == {f"memorisation_{kind}"}
    limit = limits[f"memorisation_{kind}"]
    assert limit.value == pytest.approx(np.percentile(reached, 99), abs=1e-5)
    assert (limit.clips, limit.above) == (len({clip.key for clip in HELDOUT}), 1)


def test_beauty_is_over_all_frames(measured, whole, decoded, named):
    head = load_file(Path(named["aesthetic"]) / "head.safetensors")
    rows = whole.frames("clip", decoded["ring", 1])
    marks = [row / np.linalg.norm(row) @ head["weight"][0] + head["bias"][0] for row in rows]
    assert len(marks) == 12
    found = measured[0]["ring", 1]["aesthetic_clip"]
    assert found == pytest.approx(np.mean(marks) / 10, abs=1e-5)


def test_the_second_look_decodes_nothing_and_says_the_same(named, videos, measured):
    store = MemoryStore()
    networks = look(named, store)
    first = measure(encoder_gauges(networks), videos)
    kept = dict(store.objects)
    assert kept

    def no_decoding(path):
        raise AssertionError(f"{path} is decoded although its features are kept")

    # a new arm's gauges remember nothing of the last one's videos
    assert measure(encoder_gauges(networks), videos, no_decoding) == first == measured
    assert dict(store.objects) == kept


def test_with_few_networks_and_no_clips_the_rest_is_measured(named, videos):
    networks = look_at_clips(
        open_encoder_set({"clip": named["clip"]}),
        SUITE,
        heldout=[],
        train=[],
        rows_of=rows_of,
        store=MemoryStore(),
    )
    values, readings, neighbours = measure(encoder_gauges(networks), videos)
    assert all(
        set(found) == {"text_alignment_clip", "background_consistency_clip"}
        for found in values.values()
    )
    assert {name for name, _ in readings} == {"diversity_clip"}
    assert neighbours == {}
    assert networks.limits == {}


def test_texts_that_would_be_cut_are_refused_together(named):
    long = " ".join(["red"] * 70)
    suite = suite_of(
        prompts=[
            {"id": "a", "prompt": "a ring", "eval_text": long},
            {"id": "b", "prompt": "a red " + long + " " + long},
        ]
    )
    with pytest.raises(ConfigError) as caught:
        look_at_clips(
            open_encoder_set({kind: named[kind] for kind in ("clip", "siglip2")}),
            suite,
            heldout=[],
            train=[],
            rows_of=rows_of,
            store=MemoryStore(),
        )
    text = str(caught.value)
    assert "3 problem(s)" in text  # seventy words are too many for SigLIP2 alone
    assert 'prompts["a"].eval_text' in text
    assert "has 71 tokens, of which siglip2 reads 64" in text
    assert "of which clip reads 77" in text


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_sets_are_compared_prompt_by_prompt_from_32_on(shift):
    """The rows are drawn here: what a network sees in so many videos takes long."""
    rng = np.random.default_rng(6)
    clips = [row / np.linalg.norm(row) for row in rng.normal(size=(40, 12))]
    ids = [f"p{number}" for number in range(35)]
    suite = suite_of(prompts=[{"id": name, "prompt": f"a {name}"} for name in ids])
    rows = {(name, seed): rng.normal(shift, 1, size=(8, 12)) for name in ids for seed in (1, 2)}

    def readings_over(count):
        gauge = DomainSimilarity("clip", lambda seen: rows[seen.prompt.id, seen.seed], clips)
        for prompt, seed in suite.shots[: 2 * count]:
            gauge.look(Seen(prompt=prompt, seed=seed, path=Path(), sha256="0" * 64))
        return {reading.metric: reading.value for reading in gauge.findings().readings}

    assert readings_over(31) == {}
    found = readings_over(35)
    means = np.stack([np.mean([direction(rows[name, s]) for s in (1, 2)], axis=0) for name in ids])
    expected = discrepancy(means, np.stack(clips), kernel="rbf")
    assert found["domain_mmd_clip"] == pytest.approx(expected.squared, abs=1e-12)
    assert found["domain_mmd_p_clip"] == expected.p
