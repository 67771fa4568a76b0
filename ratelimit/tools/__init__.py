"""Tools for those who write limits: simulate them over recorded calls, and derive them from these.

The request path imports none of them.
"""
