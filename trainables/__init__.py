"""How it is learned: methods as terms, packs that share a forward."""
