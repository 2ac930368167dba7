"""Commands that look at methods, settings and rows, before there is a sweep."""
