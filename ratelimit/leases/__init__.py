"""Leases: tokens that this process has taken from a shared bucket in advance, to answer from memory."""
