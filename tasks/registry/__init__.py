"""Versions of a model as people and programs look them up, compare them and load them."""
