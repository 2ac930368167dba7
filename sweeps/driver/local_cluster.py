"""The Ray cluster of a single machine, in its own process, and the driver's connection to any cluster.

Ray takes seconds to start, most of them spent waiting, so a driver starts it first and imports the rest meanwhile. The
cluster ends with its driver, however the driver ends, because the standard input of its process is closed then.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from settings.common.errors import UserError
from sweeps.driver import ray_environment
from trainables.folder import SweepFolder

OBJECT_STORE_BYTES = 100_000_000  # packs exchange a few kilobytes
CLOSE_SECONDS = 30.0  # for Ray to end by itself
TOO_SLOW = "timed out during startup"  # Ray waits 30 seconds for itself; a busy machine may need longer
SILENT: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",  # they would idle: Tune starts workers with an environment of their own
    "RAY_enable_worker_prestart": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # otherwise every report of a worker waits two seconds
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # otherwise a pack without a GPU sees those of others
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore",
}


class LocalCluster:
    """A context in which Ray starts in the background; `address` waits for it. Leaving the context ends Ray.

    Attributes:
        process: the process that starts Ray, and ends it once its standard input is closed.
    """

    def __init__(self) -> None:
        self._address = ""
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 -- see `close`
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's default for a new cluster, but not for joining one
        ray_environment.enter()
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**QUIET, **os.environ, **ray_environment.import_path()},
            process_group=0,  # a group of its own: Ctrl-C is for the driver, which still needs Ray then
        )

    def __enter__(self) -> LocalCluster:
        return self

    @property
    def address(self) -> str:
        """The address of the cluster; wait until the cluster runs. Raise UserError if it does not start."""
        if not self._address:
            self._address = self._first_line()
        if not self._address and TOO_SLOW in self._reason():
            self._end_process()
            self.process = self._start()  # once more: what Ray reads from disk is cached now
            self._address = self._first_line()
        if not self._address:
            reason = self._reason()
            busy = "; the machine is busy, try again" if TOO_SLOW in reason else ""
            raise UserError(f"Ray does not start on this machine: {reason}{busy}")
        return self._address

    def _first_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def _reason(self) -> str:
        """Return the last line that the ended process wrote to standard error."""
        self.process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else "it gives no reason"

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin_shutdown(self) -> None:
        """Start shutting Ray down without waiting for it."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        """End Ray: kill it if nobody asked for its address, otherwise let it shut down by itself."""
        self._end_process()
        self._errors.close()

    def _end_process(self) -> None:
        assert self.process.stdout is not None
        self.begin_shutdown()
        try:
            self.process.wait(CLOSE_SECONDS if self._address else 0.0)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # otherwise Ray's agents search for the cluster for a minute
            self.process.wait()
        self.process.stdout.close()


def start_early(folder: Path, address: str | None) -> AbstractContextManager[LocalCluster | None]:
    """Start a cluster while the sweep is read; None if none will be needed, or Ray was imported before.

    Args:
        folder: the sweep's folder, if the argument is its name.
        address: address of another cluster to use, if any.
    """
    needless = address or SweepFolder(folder).published.exists() or "ray" in sys.modules
    return nullcontext() if needless else LocalCluster()


def start_ray(dashboard: bool = False) -> str:
    """Start a cluster that ends with this process. Return its address.

    Args:
        dashboard: also start the dashboard's server. Packs that several workers train together need it: Ray uses it to
            clean up after a killed worker.
    """
    ray_environment.enter()
    import ray

    with ray_environment.for_children():
        context = ray.init(
            address="local",  # otherwise Ray joins any cluster whose address it finds, even a dead one
            num_cpus=os.cpu_count(),
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            object_store_memory=OBJECT_STORE_BYTES,
            job_config=job_config(),
            **SILENT,
        )
    return str(context.address_info["gcs_address"])


def job_config() -> Any:
    """Return Ray's job settings: workers import this code, and nothing from the driver's current directory.

    Ray puts that directory first in their `sys.path` unless the job comes from a client elsewhere.
    """
    from ray.job_config import JobConfig

    return JobConfig(_client_job=True, _py_driver_sys_path=ray_environment.code_path())


@contextmanager
def connect(address: str | None, cluster: LocalCluster | None, together: bool) -> Iterator[None]:
    """Connect to the Ray cluster at an address, or else to a local one: `cluster` if it will do.

    Args:
        together: whether several workers train a pack together, for which an early cluster will not do.
    """
    import ray

    if cluster and (address or together):
        cluster.close()
        cluster = None
    if address:
        ray.init(address=address, runtime_env={"env_vars": QUIET}, job_config=job_config(), **SILENT)
    elif cluster:
        ray.init(address=cluster.address, job_config=job_config(), **SILENT)
    else:
        start_ray(dashboard=together)
    try:
        yield
    finally:
        ray.shutdown()
        if cluster:
            cluster.begin_shutdown()  # takes seconds; meanwhile the frontier is drawn


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings of Ray and its libraries that a user cannot act on."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a worker's error becomes the reason of its trials
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    """Start Ray, print its address, and end it when the driver is gone."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that nothing that Ray prints is taken for an address
    output.write(f"{start_ray()}\n")
    output.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
