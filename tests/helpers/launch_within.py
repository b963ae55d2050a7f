"""Trains and tests a config in two processes that are started from within this one: `launch_within.py HOW CONFIG`."""

import sys
import threading

import plcourse
from plcourse.__main__ import main
from plcourse.cli import process_count

if __name__ == "__main__":
    how, config = sys.argv[1:]
    if how == "thread":
        thread = threading.Thread(target=plcourse.run, args=("fit", config), kwargs={"then": ["test"]})
        thread.start()
        thread.join()
    else:
        if how == "again":
            process_count.can_fork = lambda: False  # as on macOS
        main(["fit", "-c", config, "--then", "test"])
