"""The blocks inside `credentials:`, one kind of credential a file."""
