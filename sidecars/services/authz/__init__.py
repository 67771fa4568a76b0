"""The authz service, its admin pages, decision log and spans."""
