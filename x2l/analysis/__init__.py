"""Analysis: records -> points, tests, figures, reports. May import runs and what is below; never models."""
