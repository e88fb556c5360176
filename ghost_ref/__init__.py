"""Ghost: tiny byte-level ternary state-space language models, defined bit by bit in NumPy."""

__version__ = "0.1.0"
