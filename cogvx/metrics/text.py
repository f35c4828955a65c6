"""Short texts to features, by the other half of CLIP or SigLIP2.

Texts are cut into tokens by the network's own tokenizer.json, alone: what transformers makes of
the other files differs from version to version. A text that is too long is refused, never cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPTextModelWithProjection, SiglipTextModel

from cogvx.digest import digest
from cogvx.errors import ConfigError
from cogvx.metrics.encoder_files import NETWORK_FILES, TOKENIZER
from cogvx.metrics.encoders import contents, device_name, in_float32, load_network
from cogvx.metrics.tokens import Tokens, read_tokens
from cogvx.model.hashes import FileHashes

TextKind = Literal["clip", "siglip2"]

_MODELS = {"clip": CLIPTextModelWithProjection, "siglip2": SiglipTextModel}
_VERSION = 1  # of the preparation of texts


@dataclass(frozen=True)
class TextEncoder:
    """The half of a network that reads. `identity` names everything that decides its features."""

    kind: TextKind
    model: Any
    tokens: Tokens
    identity: str
    device: str = "cpu"

    @torch.no_grad()
    def features(self, text: str) -> NDArray[np.float32]:
        """Features of a text, `(d,)`, in the space of the other half's, not normalised.

        Raises:
            ConfigError: The network reads fewer tokens than the text has.
        """
        if problem := self.tokens.problem(text, where="text"):
            raise ConfigError(str(problem))
        ids_bn = torch.tensor([self.tokens.ids(text)], device=self.device)
        with in_float32():
            output = self.model(input_ids=ids_bn)
        found = output.text_embeds if self.kind == "clip" else output.pooler_output
        features_d: NDArray[np.float32] = found[0].cpu().numpy()
        return features_d


def open_text_encoder(
    kind: TextKind, folder: Path, *, device: str = "cpu", hashes: FileHashes | None = None
) -> TextEncoder:
    """Load the half of a network that reads, in fp32; arguments as for `open_encoder`.

    Raises:
        ConfigError: Files are missing or are another network's.
    """
    tokens = read_tokens(kind, folder, where=kind)
    model = load_network(_MODELS[kind], folder, where=f"{kind}={folder}", half="text")
    names = (*NETWORK_FILES, TOKENIZER)
    parts: Mapping[str, object] = {"kind": kind, "texts": _VERSION, "device": device_name(device)}
    identity = digest({**parts, **contents(folder, names, hashes)})
    return TextEncoder(kind, model.to(device), tokens, identity, device)
