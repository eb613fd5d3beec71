"""Sweeps: many values of a merge's options, from one reading of the models.

Not `fusion_slerp.sweep`, which is the function.
"""
