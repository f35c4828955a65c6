"""Encoded clips and captions, each under a name made from everything that decides its bytes."""
