"""One file a provider: send, its words to our words."""
