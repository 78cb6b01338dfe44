"""One module per step, each with the revision it follows."""
