"""A quiet MLflow client and its paged searches, for readers and writers of a store. MLflow is imported at first use."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

PAGE = 1000  # runs in one answer of a search
DATABASE_ATTEMPTS = 2  # of MLflow to open a database; by itself it would try for two minutes
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def connect(uri: str) -> MlflowClient:
    """Return a client that neither phones home nor prints. MLflow creates an SQLite store that is not there."""
    set_environment()
    import mlflow

    if not uri.startswith("http"):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = DATABASE_ATTEMPTS

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def set_environment() -> None:
    """Set MLflow's environment variables, before it is imported. What the user has set stays."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def store_errors() -> tuple[type[Exception], ...]:
    """Return what a store that is away or broken may raise."""
    errors: tuple[type[Exception], ...] = (OSError, sqlite3.Error, ImportError)
    set_environment()
    try:
        from alembic.util import CommandError
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        return errors
    return (*errors, CommandError, MlflowException, SQLAlchemyError)


def search_runs(
    client: MlflowClient, experiments: Sequence[str], condition: str = "", deleted: bool = False
) -> list[Run]:
    """Return all runs of the experiments that meet a condition in MLflow's search syntax, the newest first.

    Args:
        deleted: those that were deleted, as in the UI, instead of those that are there.
    """
    from mlflow.entities import ViewType

    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    return all_pages(
        lambda token: client.search_runs(list(experiments), condition, view, max_results=PAGE, page_token=token)
    )


def search_experiments(client: MlflowClient) -> list[Experiment]:
    """Return all experiments of a store."""
    return all_pages(lambda token: client.search_experiments(page_token=token))


def all_pages(page_at: Callable[[str | None], Any]) -> list[Any]:
    """Return the items of all pages, each asked for by the token of the one before it."""
    page = page_at(None)
    items = list(page)
    while page.token:
        page = page_at(page.token)
        items.extend(page)
    return items
