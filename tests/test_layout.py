"""Files stay short enough to be read in one sitting."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_LINES = 400
GENERATED = ("_pb2.py", "_pb2.pyi")


def sources() -> list[Path]:
    """Every Python file of the repository, new ones included, apart from what protoc generates."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "*.pyi"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    files = [ROOT / name for name in listed.stdout.splitlines() if not name.endswith(GENERATED)]
    return [file for file in files if file.exists()]


def test_no_file_has_more_than_400_lines() -> None:
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in sources()}
    assert len(lengths) > 100
    too_long = [f"{file.relative_to(ROOT)}: {lines}" for file, lines in lengths.items() if lines > MAX_LINES]
    assert not too_long, "split by subject: " + ", ".join(too_long)
