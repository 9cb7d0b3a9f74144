"""Text in, text out: tokenise, batch, translate, put back in order."""
