"""Whether a merged model is still what was written, and whether it is what its source models make."""
