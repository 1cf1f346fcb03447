"""Which documents belong to a question."""
