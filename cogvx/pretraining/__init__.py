"""Give the nano model that the project carries its skill: from random weights, on the CPU."""
