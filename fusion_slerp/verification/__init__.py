"""Whether a child is still what was written, and whether it is what its parents make."""
