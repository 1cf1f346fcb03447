"""The model server: how it is called, when again, and what its bytes mean."""
