"""Runs a plan: reads, measures, combines and writes chunk by chunk, in constant memory."""
