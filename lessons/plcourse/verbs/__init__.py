"""The verbs of the command line beyond those of Lightning, one package or module each."""
