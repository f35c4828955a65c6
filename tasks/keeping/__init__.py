"""The store as a whole: what is in it, whether it is well, what may go."""
