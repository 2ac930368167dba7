"""Rows of any common form, read as chat rows."""
