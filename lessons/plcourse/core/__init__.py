"""What the lessons share: runs, the Trainer and its loops, data, errors; imports nothing by itself."""
