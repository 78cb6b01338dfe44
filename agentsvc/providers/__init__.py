"""How each vendor speaks: pure encode and decode; only the client's files hold sockets."""

from agentsvc.providers.anthropic import Anthropic
from agentsvc.providers.dialect import Decoder, Dialect, Endpoint, HttpRequest, Provider
from agentsvc.providers.errors import Vendor
from agentsvc.providers.models import connect
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent
from agentsvc.providers.pool import PoolConfig
from agentsvc.providers.registry import PROVIDERS, installed

__all__ = [
    "PROVIDERS",
    "Accent",
    "Anthropic",
    "Decoder",
    "Dialect",
    "Endpoint",
    "HttpRequest",
    "OpenAIChat",
    "PoolConfig",
    "Provider",
    "Vendor",
    "connect",
    "installed",
]
