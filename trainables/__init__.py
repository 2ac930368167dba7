"""How models learn: methods as terms of a loss, and packs of trials that share a forward pass."""
