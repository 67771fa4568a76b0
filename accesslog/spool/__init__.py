"""Lines on disk that a sink could not take yet. Needs the extra `spool`."""
