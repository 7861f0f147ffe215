"""Separate adapters become one answer: by their weight changes (`weights`) or by their outputs (`scores`)."""
