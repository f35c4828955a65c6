"""Train one adapter: what it begins with, its process, what it leaves, its version."""
