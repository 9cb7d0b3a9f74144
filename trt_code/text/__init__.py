"""Translates text: tokenises, batches, translates, and restores the order."""
