"""The merge methods: one file each, and their registry. A new method is a file and a line here."""

from fusion_slerp.methods.linear import LINEAR
from fusion_slerp.methods.method import Method
from fusion_slerp.methods.slerp import SLERP

METHODS: dict[str, Method] = {method.name: method for method in (SLERP, LINEAR)}
"""By name; the first is the default."""

DEFAULT = SLERP.name
