"""The `openai` client, as judge and server of replies are asked by it: connections, attempts, what refusals mean."""
