"""Ollama: models on this machine or on one near by, without a key; in its cloud with one. Which are there, its user knows.

https://github.com/ollama/ollama/blob/main/docs/api.md
"""

import re

from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.ollama import Ollama

PORT = 11434


def as_ollama_reads(host: str) -> str:
    """``OLLAMA_HOST`` may leave out scheme, host and port: ``0.0.0.0``, ``:8080`` and ``gpu-box:8080`` are addresses."""
    if "://" in host:
        return host
    if not (parts := re.fullmatch(r"(\[[^\]]*\]|[^:/]*)(?::(\d+))?(/.*)?", host)):
        return host  # and let it be refused
    return f"http://{parts[1] or '127.0.0.1'}:{parts[2] or PORT}{parts[3] or ''}"


ollama = Provider.of(
    "ollama",
    "Ollama",
    Ollama,
    base_url=f"http://127.0.0.1:{PORT}",
    base_url_env=("OLLAMA_HOST",),
    read_base_url=as_ollama_reads,
    needs_key=False,
    capabilities=Capabilities(tool_choice=False, reasoning=True, images=True, response_schema=True),
    extra_env={"model": ("OLLAMA_MODEL",)},
)
