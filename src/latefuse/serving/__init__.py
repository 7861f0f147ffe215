"""Vectors and indexes for use outside of the pipeline."""
