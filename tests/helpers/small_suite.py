"""The text of the configs in the small suite on which the verbs that only look are tested."""

HEADER = """\
# plcourse fit -c ddp/two_processes
# Two processes learn as one.
# verbs: fit, test
# needs: nothing
"""
TEXT = HEADER + "model: ImageClassifier  # caf\u00e9\r\n"
