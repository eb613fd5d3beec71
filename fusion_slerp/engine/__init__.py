"""Runs a plan on threads: reads, measures, combines, and passes the results to a sink."""
