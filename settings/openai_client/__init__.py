"""The `openai` client, as the judge and the sampling of replies use it: connections, attempts, and what refusals mean."""
