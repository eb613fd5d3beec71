"""Logs a merge with the loggers of the program's Fabric: `fabric/loggers=wandb_logger` and the like."""

from __future__ import annotations

import logging
from typing import Any

from fusion_slerp.api import MergeResult
from fusion_slerp.run_logs import merge_config, merge_values

log = logging.getLogger(__name__)


def log_to_fabric(fabric: Any, result: MergeResult) -> None:
    """Logs settings, tensors by rule, mean angle, bytes and seconds; a logger that fails is a warning.

    Args:
        fabric: The program's Fabric; None, or one without loggers, logs nothing.
        result: The finished merge.
    """
    for logger in getattr(fabric, "loggers", ()):
        try:
            logger.log_hyperparams(merge_config(result.plan))
            logger.log_metrics(merge_values(result))
        except Exception as error:  # whatever the user's logger raises: the merged model is complete
            log.warning("%s cannot log the merge: %s", type(logger).__name__, error)
