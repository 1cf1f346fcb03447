"""Sessions as JSON Lines, written and read again without loss."""
