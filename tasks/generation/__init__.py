"""Videos of a document of prompts: planned, cut into shards, rendered, put where they belong."""
