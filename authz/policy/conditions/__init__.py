"""The conditions of a rule: about the caller, the request, the route and the time."""
