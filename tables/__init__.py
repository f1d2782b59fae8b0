"""What is remembered: the rows, and the pure, total functions that change them."""
