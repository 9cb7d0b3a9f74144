"""Translates corpora of many files on a Ray cluster; doc/corpora.md."""
