"""The report of results: one self-contained HTML page, and Markdown for pull requests."""
