"""One file per provider: its address, its settings, what it can carry, its accent. ``registry.py`` lists them."""
