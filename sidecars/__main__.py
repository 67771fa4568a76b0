"""`python -m sidecars`: the `sidecars` command."""

from sidecars.cli import main

main()
