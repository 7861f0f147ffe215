"""What is measured, how sure it is, and how it is told."""
