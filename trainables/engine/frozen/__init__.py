"""What of the base model is computed once: outputs that methods refer to, and what lies below the adapters."""
