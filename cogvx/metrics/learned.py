"""Metrics that need a network, by its kind; how they are computed stands beside the networks.

Only how to read them stands here, so that control machines need nothing heavy. The names say which
features: the same formula on others is another number.
"""

from typing import Literal, get_args

from cogvx.metrics.metric import Metric

EncoderKind = Literal["dino", "dinov2", "clip", "siglip2", "aesthetic"]
ENCODER_KINDS: tuple[EncoderKind, ...] = get_args(EncoderKind)

AESTHETIC = "aesthetic_clip"
_SEEN_BY = {"dinov2": "DINOv2", "clip": "CLIP", "siglip2": "SigLIP2"}


def text_alignment_name(kind: str) -> str:
    """How well a video follows its text, as a network sees both."""
    return f"text_alignment_{kind}"


def domain_similarity_name(kind: str) -> str:
    """How much a video looks like the clips held out."""
    return f"domain_similarity_{kind}"


def diversity_name(kind: str) -> str:
    """How unlike each other the videos of a prompt are."""
    return f"diversity_{kind}"


def memorisation_name(kind: str) -> str:
    """How much a video resembles a training clip."""
    return f"memorisation_{kind}"


def _consistency(kind: EncoderKind, name: str, short: str, about: str) -> Metric:
    lies = "a frozen video is best: only a guard, beside a floor for motion"
    return Metric(name, short, "0..1", 1, "video", about, lies, encoder=kind)


def _text_alignment(kind: EncoderKind) -> Metric:
    return Metric(
        text_alignment_name(kind),
        "text",
        "cosine",
        1,
        "video",
        f"how well eight frames fit the prompt's short text, as {_SEEN_BY[kind]} sees both",
        "it knows things and places, hardly actions, order or counts; the level differs from text "
        "to text: compare arms prompt by prompt",
        encoder=kind,
    )


def _domain_similarity(kind: EncoderKind) -> Metric:
    return Metric(
        domain_similarity_name(kind),
        "domain",
        "cosine",
        1,
        "video",
        f"likeness to the centre of the held-out clips, as {_SEEN_BY[kind]} sees eight frames",
        "a copied clip scores best, and so does the average of all: guard memory and variety",
        encoder=kind,
    )


def _diversity(kind: EncoderKind) -> Metric:
    return Metric(
        diversity_name(kind),
        "variety",
        "0..2",
        1,
        "prompt",
        f"how unlike each other a prompt's videos are, seed against seed, as {_SEEN_BY[kind]} sees",
        "two seeds are a single pair: from three on it means something; failures are varied too",
        encoder=kind,
    )


def _memorisation(kind: EncoderKind) -> Metric:
    return Metric(
        memorisation_name(kind),
        "nearest clip",
        "cosine",
        -1,
        "video",
        f"how much its likest frame resembles any training clip's, as {_SEEN_BY[kind]} sees them",
        "clips of one narrow subject resemble each other without being copied: compare with what "
        "held-out clips reach, and look at the pairs",
        encoder=kind,
    )


CONSISTENCY = {
    "dino": _consistency(
        "dino", "subject_consistency_dino", "subject", "resemblance of frames as DINO sees them"
    ),
    "dinov2": _consistency(
        "dinov2", "subject_consistency_dinov2", "subject", "resemblance as DINOv2 sees them"
    ),
    "clip": _consistency(
        "clip", "background_consistency_clip", "scene", "resemblance of frames as CLIP sees them"
    ),
}

LEARNED: tuple[Metric, ...] = (
    _text_alignment("clip"),
    _text_alignment("siglip2"),
    _domain_similarity("dinov2"),
    _domain_similarity("clip"),
    _diversity("dinov2"),
    _diversity("clip"),
    _memorisation("dinov2"),
    _memorisation("clip"),
    *CONSISTENCY.values(),
    Metric(
        AESTHETIC,
        "beauty",
        "0..1",
        1,
        "video",
        "how well people would like its frames as photographs, by a linear head on CLIP",
        "it likes sharp, glossy and colourful: a style that is meant to be rough scores low",
        encoder="aesthetic",
    ),
)
