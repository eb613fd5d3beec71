"""The merged model on the disk: its files, manifest and journal, and the rename that publishes it."""
