"""Results as log lines."""

import logging
from collections.abc import Mapping
from typing import Any

__all__ = ["print_csv_format"]

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log the main metrics of each task in three lines that paste into a spreadsheet.

    Args:
        results: task -> metric -> number, as evaluators return it. Metrics whose name has a "-"
            (those of single classes) are left out.
    """
    if not isinstance(results, Mapping):
        raise TypeError(f"results are a dict of task -> metrics, got {type(results).__name__}")
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            logger.info("copypaste: %s=%s", task, metrics)
            continue
        shown = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(shown))
        logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in shown.values()))
