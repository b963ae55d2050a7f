"""The verb `compare`: tests whether the arms of runs and sweeps differ."""
