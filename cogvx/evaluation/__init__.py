"""Is this adapter better? Suites, videos, metrics, statistics, a verdict and a report."""
