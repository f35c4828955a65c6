"""The run folder: what is in it, how it is locked, followed and carried; without torch."""
