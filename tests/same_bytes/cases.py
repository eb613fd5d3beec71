"""All cases by name: results that must not change by a byte when the code changes."""

from __future__ import annotations

from tests.same_bytes.case import Case
from tests.same_bytes.of_files import OF_FILES
from tests.same_bytes.of_memory import OF_MEMORY
from tests.same_bytes.of_vocabularies import OF_VOCABULARIES
from tests.same_bytes.of_weights import OF_WEIGHTS

CASES: dict[str, Case] = {**OF_WEIGHTS, **OF_VOCABULARIES, **OF_FILES, **OF_MEMORY}
