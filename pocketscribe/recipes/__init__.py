"""Recipes: TOML files, read and checked, and the runner that walks their stages."""
