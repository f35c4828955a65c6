"""What an adapter learns and what it is shown: pure functions of tensors, records and seeds."""
