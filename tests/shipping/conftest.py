"""These tests use a registry or root, and take minutes: `make test-all` sets TEST_ALL."""

import os

collect_ignore_glob = [] if os.environ.get("TEST_ALL") else ["test_*.py"]
