"""What runs it all: everything that touches the outside."""
