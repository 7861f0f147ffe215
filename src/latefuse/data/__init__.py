"""Raw data in, one checked dataset folder out."""
