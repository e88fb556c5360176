"""The one exception for bad input: its text is a complete sentence for the user."""


class GhostError(ValueError):
    """Bad input or a bad file. The command line prints the sentence and exits with code 2."""
