"""Settings: their schema, how they are read, and what can be said about them."""
