"""Ground floor: errors, content ids, files, addresses, checks. Knows nothing of settings; all packages may import it."""
