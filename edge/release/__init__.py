"""Staged roll-out of bundles: which edge serves which revision, who decided it, and when to go on."""
