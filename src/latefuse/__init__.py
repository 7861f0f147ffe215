"""latefuse: fine-tune each modality on its own, fuse late, prove what each modality is worth."""

__version__ = "0.1.0"
