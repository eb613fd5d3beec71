"""Settings of transformers and torch under which hundreds of small models are made."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger


@contextmanager
def quiet() -> Iterator[None]:
    """Silences warnings of transformers and of merges, and keeps torch to one thread, for a while."""
    import torch
    from transformers.utils import logging

    merges = getLogger("fusion_slerp")
    level = merges.level
    threads, verbosity = torch.get_num_threads(), logging.get_verbosity()
    torch.set_num_threads(1)
    merges.setLevel(ERROR)
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.enable_progress_bar()
        logging.set_verbosity(verbosity)
        merges.setLevel(level)
        torch.set_num_threads(threads)
