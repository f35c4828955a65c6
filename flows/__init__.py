"""The flows, and the command line over them."""
