"""Finds rules that load but cannot do what their author means."""
