"""What the latent of a first frame is scaled with: the same in training and in generating.

Nothing heavy is imported: a control machine reads cards and recipes with it.
"""

from cogvx.errors import ConfigError, Problem, as_toml
from cogvx.variants import ImageScale, Variant

_EXPONENTS: dict[ImageScale, int] = {"multiplied": 1, "divided": -1, "raw": 0}


def image_factor(scale: ImageScale, scaling_factor: float) -> float:
    """What a first frame's latent is multiplied by, given the VAE's factor."""
    return float(scaling_factor ** _EXPONENTS[scale])


def image_scale_of(
    variant: Variant, asked: ImageScale | None, *, where: str = "base.image_latent_scale"
) -> ImageScale | None:
    """The scale that a base works with: what was asked for, or the only one that it has.

    Args:
        variant: The kind of base.
        asked: What a person chose.
        where: The setting's name, for the message.

    Raises:
        ConfigError: The base has no such scale, or has several and none was asked for.
    """
    allowed = variant.image_scales
    if asked is None and len(allowed) <= 1:
        return allowed[0] if allowed else None
    if asked in allowed:
        return asked
    wrong = "is missing" if asked is None else f"is not for {variant.name}"
    *others, last = [as_toml(scale) for scale in allowed] or [""]
    use = f"use {', '.join(others)} or {last}" if others else f"use {last}"
    use = use if allowed else "leave it out, as it starts from text alone"
    raise ConfigError(str(Problem(where, asked, wrong, use)))
