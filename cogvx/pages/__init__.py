"""Pages that a person opens from disk: one HTML file each, which holds all that it shows."""
