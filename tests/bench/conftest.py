"""The harness records into an HdrHistogram, whose package has no wheel for every machine."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("hdrh") else ["*/test_*.py", "test_*.py"]
