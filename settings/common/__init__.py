"""Ground floor: errors, content ids, files, addresses, checks. Knows no settings; every package may import it."""
