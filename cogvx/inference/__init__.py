"""Generate videos from one loaded base model and any number of adapters."""
