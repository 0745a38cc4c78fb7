"""What carries values, functions and errors between processes."""
