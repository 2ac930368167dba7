"""Commands that show methods, settings and rows before there is a sweep."""
