"""An open-loop load generator: calls start at a constant rate, and latency counts from the intended start.

A closed loop waits for a reply before it sends the next request, so while a server stalls it sends nothing
and measures one slow call where users would have seen hundreds (coordinated omission). Here each call has an
intended start, and the time that it waits for a free connection is part of its latency.
"""
