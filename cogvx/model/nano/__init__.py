"""A real CogVideoX at toy size, and the small world that it lives in."""
