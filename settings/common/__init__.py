"""Ground floor: errors, content ids, files, checks. Knows nothing of settings; every package may import it."""
