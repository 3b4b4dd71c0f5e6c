"""Engine: pre-fill, store, mix, decode; and what that costs. May import compressors, models, video and kv."""
