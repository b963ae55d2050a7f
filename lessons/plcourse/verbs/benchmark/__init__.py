"""How a training scales over processes: what `plcourse benchmark scaling` measures, and what it says about it."""
