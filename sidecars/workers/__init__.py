"""Several worker processes: their supervisor, and admin pages that merge their answers."""
