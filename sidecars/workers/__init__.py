"""Several worker processes: their supervisor and the pages that join their answers."""
