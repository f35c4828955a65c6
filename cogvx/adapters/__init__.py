"""The adapter file that people share: written, verified, described."""
