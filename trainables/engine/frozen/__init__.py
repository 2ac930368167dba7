"""Results of the base model that are computed once: reference outputs, and hidden states below the adapters."""
