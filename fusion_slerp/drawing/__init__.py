"""Drawings of what merges measure: heat maps and curves over depth, as SVG for cards, pages and papers."""
