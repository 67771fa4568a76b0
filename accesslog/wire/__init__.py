"""Reads StreamAccessLogsMessages: no other package of accesslog knows their fields."""
