"""Optimisation: cached features, batches by length and modality, one engine on the Hugging Face Trainer."""
