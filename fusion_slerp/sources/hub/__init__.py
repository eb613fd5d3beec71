"""Models of the Hugging Face Hub: found, checked, downloaded to its cache by huggingface_hub, and pinned."""
