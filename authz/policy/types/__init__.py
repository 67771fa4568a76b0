"""The types that all parts of the policy language share: names, paths and patterns."""
