"""Everything beside the weights, and the rename that makes the child appear."""
