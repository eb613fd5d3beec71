"""The bytes of checkpoints: folders, the Hub, headers, archives; bounded readers and open files."""
