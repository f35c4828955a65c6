"""Adapters to the world: settings, clients, and the Prefect tasks."""
