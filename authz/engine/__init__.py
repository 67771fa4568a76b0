"""The request path: from a check request to the decision, its response and its record."""
