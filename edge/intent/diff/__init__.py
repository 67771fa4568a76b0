"""What changes for callers and for the log between two estates, in words for a review."""
