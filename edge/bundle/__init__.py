"""Signed bundles of configuration, in the format of the Open Policy Agent."""
