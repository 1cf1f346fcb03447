"""The commands: each parses, calls the same functions as the server, and prints."""
