"""x2l-ask: questions about a video of one's own."""
