"""From a folder or bucket of captioned clips to a manifest, and from a clip to pixels."""
