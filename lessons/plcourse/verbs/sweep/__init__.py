"""`plcourse sweep`: runs arms, seeds and a grid in warm processes."""
