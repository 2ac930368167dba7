"""The `openai` client for the judge and the server of replies: connections, attempts, and what refusals mean."""
