"""What each team wants at the edge: read from YAML files, checked, and completed by the platform's rules."""
