"""Data sets: loaders that refuse what is missing or damaged, and generators whose true distribution is known."""
