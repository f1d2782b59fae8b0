"""What providers and readers tell of what was sent: one file a vendor, and our own links."""
