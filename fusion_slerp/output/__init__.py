"""The merged model on disk: its files, manifest and journal, and the rename that publishes it."""
