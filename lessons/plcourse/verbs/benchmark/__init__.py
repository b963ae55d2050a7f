"""The verb `benchmark`."""
