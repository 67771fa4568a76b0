"""Builds a release: `python -m release --help`. Part of the repository, not of the wheel."""
