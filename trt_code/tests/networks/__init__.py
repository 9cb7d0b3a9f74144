"""Every architecture of the registry through the whole line, and the README's table of them."""
