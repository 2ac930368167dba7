"""Rows of any usual form, read as chat rows."""
