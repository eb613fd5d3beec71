"""Bytes on disk: safetensors headers, checkpoint folders, hub ids, and the shard writer."""
