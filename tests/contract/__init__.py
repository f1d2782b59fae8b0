"""One suite for every provider, against real servers on loopback."""
