"""Pulls signed bundles, and puts them into service."""
