"""The settings file. `load` reads it, `root` is the whole, and each section has a file of its own."""
