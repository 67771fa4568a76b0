"""Quotas: parts of a limit that each Envoy is assigned in advance, to decide by itself (Envoy's RLQS)."""
