"""Searches: the best values of a merge's options, with Optuna.

Not `fusion_slerp.search`, which is the function.
"""
