"""Every kind of network that judges videos: real classes at toy size, with vocabularies of ours."""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY = {**SMALL, "intermediate_size": 64}
SEEING = {**TINY, "image_size": 32, "patch_size": 8}
WORDS = ("a", "blue", "circle", "cross", "falls", "large", "red", "rises", "small", "square")
WIDTH = 16


def build_networks(root: Path) -> dict[str, str]:
    """Folders by kind, as a recipe names them; the head brings no CLIP of its own."""
    torch.manual_seed(0)
    dinov2 = {**SMALL, "image_size": 64, "patch_size": 32}  # it sees 224x224 in any case
    models = {
        "dino": ViTModel(ViTConfig(**SEEING), add_pooling_layer=False),
        "dinov2": Dinov2Model(Dinov2Config(**dinov2)),
        "clip": CLIPModel(clip_config()),
        "siglip2": SiglipModel(
            SiglipConfig(
                text_config={**TINY, "vocab_size": 40, "max_position_embeddings": 64},
                vision_config=SEEING,
            )
        ),
    }
    for kind, model in models.items():
        model.save_pretrained(root / kind)
    clip_tokenizer().save(str(root / "clip/tokenizer.json"))
    siglip_tokenizer().save(str(root / "siglip2/tokenizer.json"))
    (root / "aesthetic").mkdir()
    save_head(root / "aesthetic/head.safetensors")
    return {kind: str(root / kind) for kind in (*models, "aesthetic")}


def clip_config() -> CLIPConfig:
    text = {**TINY, "vocab_size": 40, "max_position_embeddings": 77}
    marks = {"bos_token_id": 38, "eos_token_id": 39, "pad_token_id": 39}
    return CLIPConfig(text_config={**text, **marks}, vision_config=SEEING, projection_dim=WIDTH)


def save_head(path: Path, width: int = WIDTH) -> None:
    rng = np.random.default_rng(1)
    save_file(
        {
            "weight": rng.normal(size=(1, width)).astype(np.float32),
            "bias": np.array([5.0], np.float32),
        },
        path,
    )


def clip_tokenizer() -> Tokenizer:
    """Marks at both ends, as CLIP's."""
    found = _words({"<start>": 38, "<end>": 39})
    found.normalizer = Lowercase()
    found.post_processor = TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 38), ("<end>", 39)]
    )
    return found


def siglip_tokenizer() -> Tokenizer:
    """An end mark and filling to 64, as SigLIP2's own file has them; it knows no capitals."""
    found = _words({"<pad>": 0, "<eos>": 1})
    found.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    found.enable_padding(length=64, pad_id=0, pad_token="<pad>")
    return found


def _words(marks: dict[str, int]) -> Tokenizer:
    vocabulary = {"<unk>": 2, **{word: number for number, word in enumerate(WORDS, 3)}, **marks}
    found = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    found.pre_tokenizer = Whitespace()
    return found
