"""Edits that hold in evaluation, stored beside a PEFT checkpoint, which cannot hold them.

`edits.safetensors` has the tensors `0.add`, `0.remove`, `1.add`, ... Its header says what each edit is and how to apply
it: block, when, share, and the formula.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainables.interface.edits import Edit

FILE = "edits.safetensors"
FORMULA = "h <- h - share * remove^T remove h + add, at every position of what the block returns"
NOTE = (
    f"{FILE} holds edits of hidden states that belong to this model: the adapter alone, as PEFT loads it, is another"
    " model; the file's header says how they are applied"
)


def save_edits(directory: Path, edits: Sequence[Edit]) -> None:
    """Write edits into the directory of an adapter; do nothing if there are none."""
    if not edits:
        return
    tensors: dict[str, Tensor] = {}
    for number, edit in enumerate(edits):
        for name, tensor in (("add", edit.add_D), ("remove", edit.remove_QD)):
            if tensor is not None:
                tensors[f"{number}.{name}"] = tensor.detach().cpu().contiguous().clone()  # two edits may share a tensor
    described = [{"block": edit.block, "when": edit.when, "share": edit.share} for edit in edits]
    save_file(tensors, directory / FILE, {"format": "pt", "formula": FORMULA, "edits": json.dumps(described)})


def load_edits(directory: Path) -> tuple[Edit, ...]:
    """Return the edits in the directory of an adapter; none if there is no such file."""
    path = directory / FILE
    if not path.is_file():
        return ()
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()["edits"])
        names = set(file.keys())
        tensors = [
            [file.get_tensor(key) if key in names else None for key in (f"{number}.add", f"{number}.remove")]
            for number in range(len(described))
        ]
    return tuple(
        Edit(edit["block"], edit["when"], add, remove, edit["share"])
        for edit, (add, remove) in zip(described, tensors, strict=True)
    )
