"""All SQL of the product: one backend behind a small protocol, and functions of (db, scope, ...)."""
