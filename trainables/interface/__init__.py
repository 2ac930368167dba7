"""What a method says of itself beside its losses: coefficients, rows, edits, preparation, cost."""
