"""Rank processes and worker processes: started, watched over, and ended."""
