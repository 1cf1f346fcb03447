"""What operators see: ids, counts and durations; never texts or keys."""
