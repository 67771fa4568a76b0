"""Logs and metrics of calls, connections and the process."""
