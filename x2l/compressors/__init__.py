"""Compressors: the KVs of one chunk in, fewer KVs out."""
