"""A client of the admin port and of Redis, for the command line and the demo."""
