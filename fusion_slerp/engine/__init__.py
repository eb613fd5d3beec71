"""Runs a plan on threads: reads, measures, combines, and hands the results to a sink."""
