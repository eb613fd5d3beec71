"""Reports: one HTML file about a merged model, a sweep, or models to be merged; figures for papers."""
