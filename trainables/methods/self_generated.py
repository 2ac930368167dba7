"""Self-generated proxy: the alignment prompts with the base model's own replies."""

from dataclasses import dataclass

from torch import Tensor

from settings.setting import Stream
from trainables.coefficients import Range
from trainables.interface.rewriting import Rewriting
from trainables.losses import cross_entropy
from trainables.method import ProxyMethod, Step


@dataclass(frozen=True, kw_only=True)
class SelfGenerated(ProxyMethod):
    """Up-weighted mixed fine-tuning on replies that the base model gives to the alignment prompts, y ~ p_0(. | x).

        L = CE(task) + weight * CE(alignment prompts with the base model's replies)

    The replies are sampled once per seed, before training, and are at most as long as the longest alignment response; a
    reply that has not ended by then is learned without its end. At `temperature = 1`, the second term is, in
    expectation, the divergence KL(p_0 || p) of whole replies plus the entropy of p_0, which training does not change:
    unlike responses that somebody else wrote, they teach nothing new.

    Coefficients:
        weight: weight of the alignment loss.
        temperature: temperature of the replies; 0 is greedy.

    `weight = 0` is plain fine-tuning. Adapted: the prompts are the setting's, whereas generative replay also lets the
    model write these; and no guard revises replies.
    """

    kind = "data"
    must_stay_active = ("alignment",)
    equation = "L = CE(task) + weight * CE(alignment prompts with the base model's replies)"
    source = "Fang et al. 2026, arXiv:2603.10243 (GR-SAP); Irpan et al. 2025, arXiv:2510.27062 (consistency training)"
    evidence = "among mixed-in safety rows, those of the model itself preserve most (arXiv:2603.10243, 2605.31328)"

    weight: float = Range(1.0, low=0.03, high=30.0, log=True, neutral=0.0)
    temperature: float = Range(1.0, low=0.0, high=1.0, at_most=2.0, searched=False)

    def rewriting(self, stream: Stream) -> Rewriting | None:
        return Rewriting(own_replies=True, temperature=self.temperature) if stream == "alignment" else None

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        alignment = cross_entropy(step.policy["alignment"])
        step.record(alignment=alignment)
        return (cross_entropy(step.policy["task"]) + self.weight * alignment,)
