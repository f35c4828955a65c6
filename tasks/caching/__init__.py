"""Clips: whether they changed, which are fit, and what the cache lacks of them."""
