"""Ground floor: errors, content ids, files, addresses, checks. Knows nothing of settings; every package may import it."""
