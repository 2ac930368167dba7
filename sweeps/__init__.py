"""Which trials run, where, and how the next are chosen."""
