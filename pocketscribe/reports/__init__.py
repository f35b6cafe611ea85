"""Runs side by side: tables, plots, and a page to read and to listen to."""
