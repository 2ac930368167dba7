"""What a user would write: one trial with a Hugging Face model, PEFT's LoRA and torch's AdamW. No Ray here.

Written to be fast where a competent user would be: fused AdamW, no cache while training, one batch for all rows of a
loss, one `model.generate` for all questions. It is not told anything that takes this project's code to know: the whole
`[rows, tokens, vocabulary]` logits are computed, and the reference is recomputed under `disable_adapter`.

Rows and their order, the initial adapter, the schedule and the graders are this project's, so that its trials are the
same trials. The methods are those of the benchmark's sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from settings.encoding import EncodedRow
from settings.setting import Evaluation, Measurement, Setting, Stream
from trainables.engine.adapters import PackedAdapters
from trainables.engine.batches import EncodedSetting
from trainables.engine.forward import autocast
from trainables.trial import TrialConfig

IGNORED = -100  # label of positions that do not count
Rows = Mapping[Stream, Sequence[EncodedRow]]


def load(directory: Path | str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The frozen base model and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model.requires_grad_(False), AutoTokenizer.from_pretrained(directory)


@dataclass
class PeftTrial:
    """One trial from its adapter's initial weights to its scores.

    Attributes:
        model: the base model; the adapter is put into it.
        losses: of the steps taken, on the device.
        closest_calls: evaluation -> for each reply, the smallest gap between the two best logits at any of its tokens.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    setting: Setting
    trial: TrialConfig
    losses: list[Tensor] = field(default_factory=list)
    closest_calls: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        adapter, optimizer = self.trial.adapter, self.trial.optimizer
        start = initial_adapter(self.model, self.trial)
        config = LoraConfig(
            r=adapter.rank, lora_alpha=adapter.alpha, use_rslora=adapter.rslora, target_modules=adapter.targets
        )
        self.peft = get_peft_model(self.model, config)
        self.set_adapter(start)
        self.encoded = EncodedSetting(self.setting, self.tokenizer, self.trial.max_length)
        self.parameters = [parameter for parameter in self.peft.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=optimizer.learning_rate,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: optimizer.rate(step, self.trial.steps) / optimizer.learning_rate
        )

    def set_adapter(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the adapter; names are PEFT's."""
        found = set_peft_model_state_dict(self.peft, dict(tensors))
        if found.unexpected_keys:
            raise ValueError(f"no such tensors in the adapter: {found.unexpected_keys}")

    def step(self) -> None:
        """One optimizer step."""
        trial, done = self.trial, len(self.losses)
        rows = self.encoded.batch(trial.method, trial.sizes, trial.seed, done)
        with autocast(self.model.device):
            loss = LOSSES[trial.method.name](self, rows)
        loss.backward()
        if trial.optimizer.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, trial.optimizer.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss.detach())

    def train(self) -> None:
        """All steps."""
        self.peft.train()
        for _ in range(self.trial.steps):
            self.step()

    def evaluate(self) -> tuple[dict[str, Measurement], dict[str, list[str]]]:
        """Scores, and each evaluation's replies."""
        scores: dict[str, Measurement] = {}
        replies = {}
        for evaluation in self.setting.evaluations:
            rows = self.encoded.questions(evaluation)
            gaps = self.closest_calls[evaluation.name] = []
            found = self.reply(rows, evaluation, [range(len(rows))], gaps)
            replies[evaluation.name] = [self.encoded.encoder.text(reply) for reply in found]
            scores |= evaluation.grade(replies[evaluation.name])
        return self.setting.with_worst(scores), replies

    def reply(
        self,
        rows: Sequence[EncodedRow],
        evaluation: Evaluation,
        batches: Sequence[Sequence[int]],
        gaps: list[float] | None = None,
    ) -> list[tuple[int, ...]]:
        """Greedy replies to all rows, in batches of these; prompts are padded on the left.

        Append the closest call of each reply to `gaps`, if given: that takes time, which no timed call spends.
        """
        self.peft.eval()
        stops = self.encoded.encoder.stop_ids(rows)
        found: dict[int, tuple[int, ...]] = {}
        for batch in batches:
            prompts = [rows[index].ids[: rows[index].prompt_length] for index in batch]
            written = self._generate(prompts, evaluation.max_new_tokens, stops, gaps)
            found.update(zip(batch, (until(reply, stops) for reply in written), strict=True))
        return [found[index] for index in range(len(rows))]

    @torch.no_grad()
    def _generate(
        self, prompts: Sequence[Sequence[int]], length: int, stops: frozenset[int], gaps: list[float] | None
    ) -> list[list[int]]:
        pad, longest = int(self.tokenizer.pad_token_id), max(map(len, prompts))
        ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        mask = (torch.arange(longest) >= longest - lengths[:, None]).long()
        device = self.model.device
        with autocast(device):
            out = self.peft.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=length,
                do_sample=False,
                eos_token_id=sorted(stops),
                pad_token_id=pad,
                return_dict_in_generate=True,
                output_scores=gaps is not None,
            )
        written: list[list[int]] = out.sequences[:, longest:].tolist()
        if gaps is not None:
            best = torch.stack([scores.topk(2).values for scores in out.scores], dim=1)  # [rows, tokens, 2]
            read = [len(until(reply, stops)) + 1 for reply in written]  # the stop is a choice, too
            gaps += [float((each[:, 0] - each[:, 1])[:count].min()) for each, count in zip(best, read, strict=True)]
        return written

    def forward(self, rows: Sequence[EncodedRow], **options: Any) -> tuple[Any, Tensor]:
        """What the adapted model gives for rows, padded on the right, and their labels."""
        pad, longest = int(self.tokenizer.pad_token_id), max(len(row.ids) for row in rows)
        ids = torch.tensor([list(row.ids) + [pad] * (longest - len(row.ids)) for row in rows])
        labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        for number, row in enumerate(rows):
            labels[number, row.prompt_length : len(row.ids)] = ids[number, row.prompt_length : len(row.ids)]
            mask[number, : len(row.ids)] = 1
        device = self.model.device
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device), "use_cache": False}
        labels = labels.to(device)
        return self.peft(**inputs, **({"labels": labels} | options)), labels

    def reference(self, rows: Sequence[EncodedRow], **options: Any) -> Any:
        """The same from the base model, without a graph."""
        with torch.no_grad(), self.peft.disable_adapter():
            return self.forward(rows, **options)[0]


def initial_adapter(model: PreTrainedModel, trial: TrialConfig) -> dict[str, Tensor]:
    """The adapter that this project starts the trial from, under PEFT's names."""
    adapters = PackedAdapters(model, [trial.adapter], [trial.seed])
    tensors = adapters.member(0)
    adapters.detach()
    return tensors


def until(tokens: Sequence[int], stops: frozenset[int]) -> tuple[int, ...]:
    """The tokens before the first stop."""
    return tuple(tokens[: next((place for place, token in enumerate(tokens) if token in stops), len(tokens))])


def _plain(own: PeftTrial, rows: Rows) -> Tensor:
    return own.forward(rows["task"])[0].loss


def _mixed(own: PeftTrial, rows: Rows) -> Tensor:
    return own.forward([*rows["task"], *rows["alignment"]])[0].loss


def _upweighted(own: PeftTrial, rows: Rows) -> Tensor:
    task, alignment = own.forward(rows["task"])[0].loss, own.forward(rows["alignment"])[0].loss
    return task + own.trial.method.weight * alignment  # type: ignore[attr-defined]


def _kl_penalty(own: PeftTrial, rows: Rows) -> Tensor:
    policy, labels = own.forward(rows["alignment"], labels=None)
    counts = labels[:, 1:] != IGNORED
    log_p_NV = torch.log_softmax(policy.logits[:, :-1][counts].float(), dim=-1)
    log_r_NV = torch.log_softmax(own.reference(rows["alignment"], labels=None).logits[:, :-1][counts].float(), dim=-1)
    kl = torch.nn.functional.kl_div(log_r_NV, log_p_NV, log_target=True, reduction="sum") / len(log_p_NV)
    return _plain(own, rows) + own.trial.method.beta * kl  # type: ignore[attr-defined]


def _representation(own: PeftTrial, rows: Rows) -> Tensor:
    wanted = {"labels": None, "output_hidden_states": True, "logits_to_keep": 1}
    policy, labels = own.forward(rows["alignment"], **wanted)
    reference = own.reference(rows["alignment"], **wanted)
    counts = labels[:, 1:] != IGNORED
    gaps = [
        (ours[:, :-1][counts].float() - theirs[:, :-1][counts].float()).square().mean()
        for ours, theirs in zip(policy.hidden_states[1:], reference.hidden_states[1:], strict=True)
    ]
    return _plain(own, rows) + own.trial.method.beta * torch.stack(gaps).mean()  # type: ignore[attr-defined]


LOSSES: dict[str, Callable[[PeftTrial, Rows], Tensor]] = {
    "plain": _plain,
    "mixed": _mixed,
    "upweighted": _upweighted,
    "kl_penalty": _kl_penalty,
    "representation": _representation,
}
