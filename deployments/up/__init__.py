"""Everything on one machine: `cogvx up`, and what looks at it and stops it."""
