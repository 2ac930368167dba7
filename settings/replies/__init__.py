"""Replies from a server that speaks OpenAI's protocol and loads LoRA adapters while it runs, as vLLM does."""

from settings.replies.options import Endpoint
from settings.replies.server import Asked, ReplyServer, ServedModel

__all__ = ["Asked", "Endpoint", "ReplyServer", "ServedModel"]
