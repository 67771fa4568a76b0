"""Test suites of policies: requests and callers, and what has to be answered to them."""
