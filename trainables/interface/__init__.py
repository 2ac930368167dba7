"""What a method declares besides its losses: coefficients, rows, edits, preparation, cost."""
