"""The `sidecars` command."""
