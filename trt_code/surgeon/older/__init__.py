"""Passes for files that older exporters wrote: back to the operators that the other passes know."""
