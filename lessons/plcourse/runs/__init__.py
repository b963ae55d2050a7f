"""A run on disk: its folder, its record, its config and its predictions."""
