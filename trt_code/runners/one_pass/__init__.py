"""Runners of networks that write every target token in one pass."""
