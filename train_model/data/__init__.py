"""Text: the demo corpus, byte-pair encoding, dictionaries, and what fairseq reads."""
