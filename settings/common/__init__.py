"""Shared basics: errors, content ids, files, addresses, checks. Imports no settings; every package may import it."""
