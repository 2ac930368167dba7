"""A LoRA adapter as an MLflow model. Each logged model has a copy of this file, which does not import selgen.

mlflow.pyfunc.load_model("models:/<id>").predict(["What is the capital of France?"])

MLflow runs this file both to load a model and to write one. Torch, transformers and PEFT are imported where they are
used, so that a driver that logs adapters does not spend seconds on them.
"""

from __future__ import annotations

from pathlib import Path

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class AdapterModel(PythonModel):
    """Replies greedily with at most `max_new_tokens` tokens, which `load_model(..., model_config=...)` may change."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the base model, by the name or directory in the adapter's configuration, and the adapter."""
        from peft import PeftConfig, PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        directory = Path(context.artifacts["adapter"])
        base = str(PeftConfig.from_pretrained(directory).base_model_name_or_path)
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), directory).eval()
        self.max_new_tokens = int(context.model_config["max_new_tokens"])

    def predict(self, model_input: list[str]) -> list[str]:
        """Return the reply to each prompt, as the only turn of a chat."""
        import torch

        with torch.no_grad():
            return [self._reply(prompt) for prompt in model_input]

    def _reply(self, prompt: str) -> str:
        turns = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        encoded = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")
        replied = self.model.generate(**encoded, do_sample=False, max_new_tokens=self.max_new_tokens)
        reply: str = self.tokenizer.decode(replied[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        return reply


set_model(AdapterModel())
