"""Typed clients for object storage, MLflow and the trainer process."""
