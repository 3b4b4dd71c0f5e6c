"""Compressors: one chunk's KVs in, exactly `keep` out. May import models, video and kv."""
