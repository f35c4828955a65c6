"""Stores with a past: clips that changed, runs, versions, leftovers; and what of it is needed."""

import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cogvx.adapters.card import ADAPTER_FILE
from cogvx.cache.index import CacheIndex, index_cache
from cogvx.cache.keys import record_path
from cogvx.cache.plan import image_keys, latent_key, prompt_key
from cogvx.cache.records import pack_image, pack_latents, pack_prompt
from cogvx.data.manifest import Manifest
from cogvx.data.shelf import Shelf
from cogvx.digest import canonical_json, digest, sha256_bytes
from cogvx.evaluation.index import EvaluationIndex, evaluation_path
from cogvx.housekeeping.reach import Registered
from cogvx.recipe import Recipe
from cogvx.runs.folder import RunSpec, TrainOutcome
from cogvx.store import LocalStore, ObjectStore
from cogvx.variants import PUBLISHED
from tests.cache.toys import IDS, clip, recipe

FACTS = PUBLISHED["CogVideoX-5b-I2V"]
DAY = 86_400.0
NOW = time.time()
SHELF = "manifests/" + "5" * 32


@dataclass
class Past:
    """A store, and what is known to be needed or not in it."""

    store: ObjectStore
    needed: set[str] = field(default_factory=set)
    versions: list[Registered] = field(default_factory=list)

    def write(self, key: str, data: bytes = b"x", *, days: float = 0.0) -> str:
        """Put an object that is some days old; only folders can make things older."""
        self.store.write(key, data)
        self.age(key, days)
        return key

    def age(self, key: str, days: float) -> None:
        if days:
            assert isinstance(self.store, LocalStore)
            os.utime(self.store.root / key, (NOW - days * DAY, NOW - days * DAY))

    def cache(
        self, number: int, *, days: float, clips: int = 2, made: Recipe | None = None
    ) -> tuple[Manifest, CacheIndex]:
        """What a cache run leaves when the dataset has the clips from `number` on."""
        made = made or recipe_in()
        shown = [clip(n, f"caption {n}") for n in range(number, number + clips)]
        manifest = Manifest(dataset="file:///clips", clips=tuple(shown))
        index = index_cache(manifest, made, facts=FACTS, ids=IDS)
        Shelf(self.store, SHELF).publish(manifest)
        self.age(f"{SHELF}/{index.manifest}.json", days)
        self.age(f"{SHELF}/latest", days)
        self.write(f"indexes/{digest(index)}.json", canonical_json(index), days=days)
        for path, data in records(manifest, made).items():
            if self.store.create(path, data):
                self.age(path, days)
        return manifest, index

    def train(
        self, index: CacheIndex, *, days: float, finished: bool = True, made: Recipe | None = None
    ) -> str:
        """What a run leaves; returns its name."""
        run = digest([index.manifest, days, finished])
        spec = RunSpec(
            run=run,
            recipe=made or recipe_in(),
            manifest=index.manifest,
            base_folder="/base",
            base_fingerprint="f" * 64,
            code_version="1",
            train=index.train,
            heldout=index.heldout,
            empty_prompt=index.empty_prompt,
        )
        self.write(f"runs/{run}/run.json", canonical_json(spec), days=days)
        if finished:
            adapter = adapter_of(run)
            self.write(f"adapters/{adapter}/{ADAPTER_FILE}", run.encode(), days=days)
            outcome = TrainOutcome(status="completed", step=1, steps=1, adapter_sha256=adapter)
            self.write(f"runs/{run}/outcome.json", canonical_json(outcome), days=days)
        return run

    def judge(self, run: str, *, days: float, suite: str = "a") -> EvaluationIndex:
        """What an evaluation of a run leaves: two videos, a document of losses, an embedding."""
        names = [digest([run, suite, n]) for n in range(4)]
        index = EvaluationIndex(
            videos=tuple(f"videos/{name[:2]}/{name}.mp4" for name in names[:2]),
            heldout=(f"heldout/{names[2][:2]}/{names[2]}.json",),
            prompts=(record_path("prompts", names[3]),),
        )
        for key in index.reaches():
            self.write(key, days=days)
        self.write(evaluation_path(run, digest(suite)), canonical_json(index), days=days)
        return index

    def register(self, run: str, manifest: str, *, judged: str = "a") -> None:
        """Make a run a version."""
        version = Registered(
            f"tiny version {len(self.versions) + 1}",
            run=run,
            manifest=manifest,
            adapter=adapter_of(run),
            judged=digest(judged) if judged else "",
        )
        self.versions.append(version)


def recipe_in(dtype: str = "float32") -> Recipe:
    """Clips as an image-to-video base in this precision wants them."""
    return recipe(base={"path": "base", "dtype": dtype}, cache={"image_draws": 2})


def adapter_of(run: str) -> str:
    return sha256_bytes(run.encode())


def records(manifest: Manifest, made: Recipe) -> dict[str, bytes]:
    """Every record of a manifest, real and very small."""
    moments_cfhw, embedding_sd = torch.zeros(2, 1, 1, 1), torch.zeros(1, 1)
    found: dict[str, bytes] = {}
    for window in manifest.clips:
        key = latent_key(window, made, IDS)
        found[key.path] = pack_latents(key, moments_cfhw)
        for image in image_keys(window, made, facts=FACTS, ids=IDS):
            found[image.path] = pack_image(image, moments_cfhw)
    for text in ("", *(window.caption for window in manifest.clips)):
        prompt = prompt_key(text, made, IDS, FACTS)
        found[prompt.path] = pack_prompt(prompt, embedding_sd)
    return found


def random_past(root: Path, seed: int, nights: int = 8) -> Past:
    """Months of nights: clips come and go, runs end or are killed, some folders are removed."""
    chance, past = random.Random(seed), Past(LocalStore(root))
    made = {dtype: recipe_in(dtype) for dtype in ("float32", "bfloat16")}
    removed = []
    for days in sorted(chance.sample(range(2, 120), nights), reverse=True):
        used = made[chance.choice(list(made))]
        _, index = past.cache(chance.randrange(6), days=days, made=used)
        if chance.random() < 0.6:
            run = past.train(index, days=days, finished=chance.random() < 0.7, made=used)
            if past.store.info(f"runs/{run}/outcome.json") and chance.random() < 0.7:
                past.judge(run, days=days)
                if chance.random() < 0.7:
                    past.register(run, index.manifest)
            if chance.random() < 0.3:
                removed.append(run)
    for run in removed:
        for entry in list(past.store.entries(f"runs/{run}/")):
            past.store.delete(entry.key)
    return past
