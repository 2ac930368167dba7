"""The ground floor: errors, content ids, files, checks. It knows nothing of settings, and everything may use it."""
