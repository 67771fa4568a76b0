"""One process: start, reload, drain and stop."""
