"""How many tokens a caption has, counted as the model's own tokenizer does, without torch."""

import json
from pathlib import Path
from typing import Any, Self

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from cogvx.errors import ConfigError

# T5's sentinels: `<extra_id_0>` to `<extra_id_99>` are one token each.
_SENTINELS = 100
_CONTROL, _USER_DEFINED = 3, 4  # types of pieces in a SentencePiece model


class TokenCounter:
    """Counts the tokens of captions; call it with one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """`tokenizer` neither truncates nor pads."""
        self._tokenizer = tokenizer

    @classmethod
    def of(cls, base: Path) -> Self:
        """The counter of a base model's folder.

        Its tokenizer.json is read where there is one; otherwise spiece.model, which is what the
        published checkpoints have.

        Raises:
            ConfigError: There is no tokenizer, or it cannot be read.
        """
        folder = base / "tokenizer"
        plain, pieces = folder / "tokenizer.json", folder / "spiece.model"
        if plain.is_file():
            return cls(_read_plain(plain))
        if pieces.is_file():
            return cls(_read_pieces(pieces))
        raise ConfigError(f"{folder} holds neither tokenizer.json nor spiece.model")

    def __call__(self, caption: str) -> int:
        """Tokens of a caption before truncation, the closing `</s>` among them."""
        return len(self._tokenizer.encode(caption, add_special_tokens=False).ids) + 1


def _read_plain(path: Path) -> Tokenizer:
    text = path.read_bytes()
    try:
        json.loads(text)  # the library says of a torn file only that it is an Exception
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    tokenizer = Tokenizer.from_str(text.decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_pieces(path: Path) -> Tokenizer:
    """The tokenizer that transformers makes of a SentencePiece model of T5's.

    Source: transformers `T5Tokenizer`, `SentencePieceExtractor`.
    """
    model = _parse(path)
    vocabulary = [(piece.piece, piece.score) for piece in model.pieces]
    tokenizer = Tokenizer(
        models.Unigram(vocabulary, unk_id=model.trainer_spec.unk_id, byte_fallback=False)
    )
    characters = model.normalizer_spec.precompiled_charsmap
    if characters:
        tokenizer.normalizer = normalizers.Precompiled(characters)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
        ]
    )
    special = [piece.piece for piece in model.pieces if piece.type in (_CONTROL, _USER_DEFINED)]
    special += ["<unk>", *(f"<extra_id_{number}>" for number in range(_SENTINELS))]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return tokenizer


def _parse(path: Path) -> Any:
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - for published models only
    from sentencepiece import sentencepiece_model_pb2  # noqa: PLC0415 - as above

    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ConfigError(f"{path} is no SentencePiece model: {error}") from error
    return model
