"""Encode what the cache lacks: fetch, decode, encode, pack, put into the store, all at once."""

from cogvx.encoding.encoders import Encoders
from cogvx.encoding.missing import EncodeReport, encode_missing

__all__ = ["EncodeReport", "Encoders", "encode_missing"]
