"""A store to fill, from a dataset that has to be copied before it can be decoded."""

from pathlib import Path

import torch
from diffusers import CogVideoXTransformer3DModel

from cogvx.cache.plan import CachePlan, Identities, latent_key, plan_cache, prompt_key
from cogvx.cache.records import unpack
from cogvx.data.manifest import Clip, Manifest
from cogvx.data.probe import probe
from cogvx.digest import sha256_file
from cogvx.encoding import EncodeReport, Encoders, encode_missing
from cogvx.encoding.missing import Progress
from cogvx.model.identity import TEXT_PARTS, VAE_PARTS, fingerprint
from cogvx.recipe import Recipe
from cogvx.shapes import VideoSize
from cogvx.store import MemoryStore
from cogvx.variants import read_facts
from tests.cache.toys import recipe

RECIPE = recipe()
SIZE = VideoSize(9, 48, 48)


def clip_of(path: Path, root: Path, caption: str = "a red circle", **changes: object) -> Clip:
    """One window of a file below `root`."""
    return Clip(
        key=path.relative_to(root).as_posix(),
        sha256=sha256_file(path),
        caption=caption,
        facts=probe(path),
        **{"size": SIZE, **changes},
    )


def encoders_of(base: Path) -> Encoders:
    ids = Identities(fingerprint(base, VAE_PARTS), fingerprint(base, TEXT_PARTS))
    return Encoders(base, read_facts(base), ids)


def build_image_to_video(nano_base: Path, folder: Path) -> Path:
    """The toy base with a transformer of the 1.5 image-to-video kind."""
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        (folder / part).symlink_to(nano_base / part)
    CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=16,
        out_channels=8,
        time_embed_dim=32,
        text_embed_dim=64,
        num_layers=1,
        sample_width=12,
        sample_height=12,
        sample_frames=17,
        patch_size=2,
        patch_size_t=2,
        ofs_embed_dim=32,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=True,
    ).save_pretrained(folder / "transformer")
    return folder


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
        self.on_progress: Progress = lambda kind, done, total: None

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
            on_progress=self._hear,
        )

    def _hear(self, kind: str, done: int, total: int) -> None:
        self.progress.append((kind, done, total))
        self.on_progress(kind, done, total)

    def latents(self, clip: Clip, with_recipe: Recipe = RECIPE) -> torch.Tensor:
        key = latent_key(clip, with_recipe, self.encoders.ids)
        return unpack(self.store.read(key.path), key.digest)

    def prompt(self, caption: str, with_recipe: Recipe = RECIPE) -> torch.Tensor:
        key = prompt_key(caption, with_recipe, self.encoders.ids, self.encoders.facts)
        return unpack(self.store.read(key.path), key.digest)
