"""The calls of the five documents that the Sessions API is measured by: one file a document, one function a call."""
