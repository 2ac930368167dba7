"""What is learned and how it is judged: text in, scores out."""
