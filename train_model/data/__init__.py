"""Text: corpora, byte-pair encoding, dictionaries, and fairseq's binary data."""
