"""What people and programs look at over HTTP."""
