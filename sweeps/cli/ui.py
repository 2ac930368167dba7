"""The MLflow UI on the sweeps of an output folder, as `selgen ui` serves it."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import typer

from analysis.tables.mlflow_client import set_environment
from settings.common.errors import UserError
from sweeps.names import default_uri
from sweeps.tracking.pages import configurations_page, run_page

ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PYTHONWARNINGS": "ignore",  # the server's libraries warn about themselves
    "PYTHONSAFEPATH": "1",  # the current directory may hold modules of the same names
}


def serve(sweep: str | None, output: Path, tracking_uri: str | None, host: str, port: int) -> None:
    """Turn this process into MLflow's server, and say where it shows a sweep. Raise UserError."""
    if tracking_uri is None and not (output / "mlflow.db").is_file():
        raise UserError(f"no sweep has written to {output / 'mlflow.db'}; run one first, or give --tracking-uri")
    uri = tracking_uri or default_uri(output)
    places = pages_of(sweep, uri) if sweep else {"": ""}
    check_port(host, port)
    set_environment()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # on the command line, other users could read its password
    typer.echo("MLflow UI, in about 20 seconds:")
    for what, place in places.items():
        typer.echo(f"  {what}http://{host}:{port}{place}")
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)]
    os.execv(sys.executable, [*command, "--uvicorn-opts", "--log-level warning"])


def pages_of(sweep: str, uri: str) -> dict[str, str]:
    """Return what a page of the server shows of a sweep -> its address: the figure, and all configurations.

    Raise UserError.
    """
    from analysis.tables.mlflow_runs import figure_of, runs_of

    runs = runs_of(sweep, uri)
    return {
        "the sweep and its frontier: ": run_page(runs.experiment, runs.run_id, figure_of(runs, uri)),
        "its configurations, means and intervals: ": configurations_page(runs.experiment),
    }


def check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be listened on, which MLflow would report as a traceback. Raise UserError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"port {port} of {host}: {error.strerror}; choose another --port") from error
