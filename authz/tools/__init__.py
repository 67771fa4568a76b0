"""Tools for policy authors: explain, diff, replay, format, suites. The request path imports none of them."""
