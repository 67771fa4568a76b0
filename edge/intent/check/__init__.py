"""Finds what a service may not do, and what contradicts itself, over all files of an estate."""
