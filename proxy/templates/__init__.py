"""System templates: Jinja from tenants, rendered in a child process with hard limits."""
