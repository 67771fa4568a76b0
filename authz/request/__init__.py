"""The request to decide about: the check request, its path and body, and the identity of the caller."""
