"""Test suites of policies: requests, callers and expected results."""
