"""Backbones behind one interface, and the adapters that are trained on them."""
