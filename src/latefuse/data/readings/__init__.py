"""What `prepare` puts into words for a ranker: past reviews summed up, pictures described. One file a concern."""
