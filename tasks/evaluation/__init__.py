"""Judge an adapter and act on it: plans, measurements, the verdict, the promotion."""
