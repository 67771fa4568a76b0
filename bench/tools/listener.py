"""Which process listens on a port of this machine."""

from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"


def listener_pid(port: int) -> int | None:
    """Return the process that listens on a TCP port; None if it is elsewhere, or another user's."""
    inodes = {
        fields[9]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if (fields := line.split())[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port
    }
    links = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                for descriptor in (process / "fd").iterdir():
                    with suppress(OSError):
                        if str(descriptor.readlink()) in links:
                            return int(process.name)
    return None
