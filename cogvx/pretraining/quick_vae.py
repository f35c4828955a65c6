"""The VAE's arithmetic in an order, and in precisions, that suit two CPU cores.

The spatial norms of its decoder widen the latents to the picture's size and then mix their channels
at every pixel. Channels can as well be mixed first, on the small grid: a 1x1x1 convolution and a
nearest-neighbour enlargement commute. Under autocast, convolutions over the smallest grid stay in
float32, as preparing their gradients for bfloat16 costs more than it saves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSpatialNorm3D
from torch import Tensor, nn
from torch.nn.functional import conv3d, interpolate


@contextmanager
def quick(vae: AutoencoderKLCogVideoX) -> Iterator[None]:
    """Let this VAE compute the quick way for a while; in float32 results differ by rounding only.

    Only for clips that are decoded in one piece, as no cache is passed on between pieces.
    """
    encoder, decoder = vae.encoder, vae.decoder
    coarse = [encoder.mid_block, decoder.mid_block, encoder.down_blocks[-1], decoder.conv_in]
    coarse += [encoder.conv_out, decoder.up_blocks[0].resnets]
    parts = [part for block in coarse for part in block.modules()]
    convolutions = [part for part in parts if isinstance(part, nn.Conv3d)]
    norms = [part for part in vae.modules() if isinstance(part, CogVideoXSpatialNorm3D)]
    for kind, function in ((convolutions, _in_float32), (norms, _mix_then_widen)):
        for part in kind:
            part.__dict__["forward"] = MethodType(function, part)
    try:
        yield
    finally:
        for part in [*convolutions, *norms]:
            del part.__dict__["forward"]


def _in_float32(convolution: Any, inputs: Tensor) -> Tensor:
    own = (convolution.weight, convolution.bias, convolution.stride, convolution.padding)
    with torch.autocast("cpu", enabled=False):
        return conv3d(inputs.float(), *own)


def _mix_then_widen(
    norm: Any, f: Tensor, zq: Tensor, conv_cache: object = None
) -> tuple[Tensor, dict[str, None]]:
    """In place of `CogVideoXSpatialNorm3D.forward`, whose argument names diffusers calls."""
    del conv_cache
    convolutions = (norm.conv_y.conv, norm.conv_b.conv)
    weight = torch.cat([convolution.weight for convolution in convolutions])
    bias = torch.cat([convolution.bias for convolution in convolutions])
    mixed = conv3d(zq, weight, bias)
    frames, *sides = f.shape[2:]
    if frames > 1 and frames % 2:
        first = interpolate(mixed[:, :, :1], size=(1, *sides))
        rest = interpolate(mixed[:, :, 1:], size=(frames - 1, *sides))
        mixed = torch.cat([first, rest], dim=2)
    else:
        mixed = interpolate(mixed, size=(frames, *sides))
    strength, shift = mixed.chunk(2, dim=1)
    return torch.addcmul(shift, norm.norm_layer(f), strength), {"conv_y": None, "conv_b": None}
