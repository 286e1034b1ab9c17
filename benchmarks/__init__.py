"""Speed, measured side by side with what a user would use instead; run as ``python -m benchmarks.NAME``."""
