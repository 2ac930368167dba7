"""An MLflow server that can be killed and started again: MLflow's own application and SQLite store behind one process.

`mlflow server` runs the same application under a process manager with helpers, which take 20 seconds to start.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

APPLICATION = """
import sys
from mlflow.server import app
from werkzeug.serving import run_simple

run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True)
"""


class MlflowServer:
    """A server on the store of an output folder. A context manager.

    Args:
        folder: its `mlflow.db` is the store, its `artifacts` the artifacts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, on the same port every time, and wait until it answers; its tables are made by then."""
        store = {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{self._folder / 'mlflow.db'}",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": str(self._folder / "artifacts"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        command = [sys.executable, "-c", APPLICATION, str(self._port)]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=os.environ | store, stdout=log, stderr=log)
        until = time.monotonic() + 120
        while not self._answers():
            if time.monotonic() > until or self._process.poll() is not None:
                raise TimeoutError((self._folder / "server.log").read_text())
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"{self.uri}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=60
            ) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> MlflowServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
