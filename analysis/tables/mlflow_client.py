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

PAGE = 1000  # runs on one page of a search
DATABASE_ATTEMPTS = 2  # MLflow's attempts to open a database; by default it tries for two minutes
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def connect(uri: str) -> MlflowClient:
    """Return a client that neither phones home nor prints. MLflow creates an SQLite store that does not exist."""
    set_environment()
    import mlflow

    if not uri.startswith("http"):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = DATABASE_ATTEMPTS

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def set_environment() -> None:
    """Set MLflow's environment variables, before it is imported. Those that the user has set stay."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def store_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that an unreachable or broken store may raise."""
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
        deleted: return the runs that were deleted (in the UI, for example) instead of those that still exist.
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
    """Return the items of all pages, requesting each with the token of the page before it."""
    page = page_at(None)
    items = list(page)
    while page.token:
        page = page_at(page.token)
        items.extend(page)
    return items
