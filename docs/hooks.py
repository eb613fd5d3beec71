"""Gives the site the repository's address, which stands in pyproject.toml alone."""

from importlib.metadata import metadata
from typing import Any


def on_config(config: Any) -> Any:
    """Called by mkdocs before it builds."""
    urls = dict(each.split(", ", 1) for each in metadata("fusion-slerp").get_all("Project-URL") or [])
    config.repo_url, config.repo_name = urls.get("Repository"), "fusion-slerp"
    return config
