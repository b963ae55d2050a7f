"""`plcourse learn`: the learning path, the guides and their exercises."""
