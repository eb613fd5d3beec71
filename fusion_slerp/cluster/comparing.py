"""Whether all processes are about to make the same merge: settings, models, versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fusion_slerp.cluster.together import Together
from fusion_slerp.errors import MismatchError, Problem, listed, raise_all
from fusion_slerp.hashes import BESIDE, digest_of
from fusion_slerp.output.journal import Identity
from fusion_slerp.output.unfinished import differences

OWN = "places"
"""What may differ between machines: where the models are, and when they were copied there."""

SHOWN = 5


def compare(identity: Identity, together: Together) -> None:
    """Returns if all processes have the same merge; each calls it.

    Args:
        identity: Of this process's merge.
        together: The work.

    Raises:
        MismatchError: A process has another one; all ranks raise it, with the differences.
    """
    own = {key: value for key, value in identity.items() if key != OWN}
    digest = digest_of(json.dumps(own, sort_keys=True).encode(), BESIDE)
    ranks = together.ranks
    together.put(f"digest {ranks.rank}", digest)
    if not ranks.is_first:
        if together.wait_for("digest 0") != digest:
            together.put(f"identity {ranks.rank}", own)
        together.wait_for("same")
        return
    others = [k for k in range(1, ranks.count) if together.wait_for(f"digest {k}") != digest]
    raise_all([_other(k, ranks.hosts[k], own, together.wait_for(f"identity {k}")) for k in others])
    together.put("same", True)


def _other(rank: int, host: str, first: Mapping[str, Any], other: Mapping[str, Any]) -> Problem:
    fields = (
        ("rank", f"{rank}, on {host}"),
        ("differs in", listed([_there(each) for each in differences(first, other)], SHOWN)),
    )
    fix = "give all processes the same settings, versions of the package, and files of the models"
    return Problem(MismatchError, "the processes are about to make different merges", fields, fix)


def _there(difference: str) -> str:
    """A difference, with the names of the two processes in place of those of two moments."""
    return difference.replace(" before, ", " on rank 0, ").removesuffix(" now") + " there"
