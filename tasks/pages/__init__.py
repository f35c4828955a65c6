"""What Prefect shows of any run: names, tags, progress, assets."""
