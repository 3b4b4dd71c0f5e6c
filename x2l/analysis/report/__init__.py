"""Report: one HTML page of everything in a sweep."""
