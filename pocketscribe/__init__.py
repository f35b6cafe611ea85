"""Pocketscribe trains streaming speech recognisers, shrinks them, and ships them."""

__version__ = "0.1.0"
