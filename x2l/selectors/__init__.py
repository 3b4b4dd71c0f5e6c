"""Selectors: relevance of each chunk to a question. May import engine, compressors, models, video and kv."""
