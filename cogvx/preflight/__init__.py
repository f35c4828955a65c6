"""What a recipe will need of a machine, worked out in milliseconds and without torch."""
