"""Where lines go: files and standard output, each with a bounded queue."""
