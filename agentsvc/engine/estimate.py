"""Tokens where nobody counted them. Estimates are flagged as such wherever they go."""

from __future__ import annotations

from agentsvc.domain.messages import Media, Message, Usage
from agentsvc.domain.ports import ModelRequest

# Byte-pair vocabularies of today: about four characters of English a token, and about one and a half CJK characters.
_ASCII_PER_TOKEN = 4.0
_OTHER_PER_TOKEN = 1.5
_TOKENS_PER_MESSAGE = 4  # role and separators, as OpenAI's cookbook counts them
_TOKENS_PER_MEDIA = 256
# A chunk's share of the tokens counted by length, where it is one token: between 1.6 and 7 characters of English.
_LEAST_PER_TOKEN, _MOST_PER_TOKEN = 0.4, 1.75


def tokens(text: str) -> int:
    """About how many tokens ``text`` is; at least 1 when it is not empty."""
    if not text:
        return 0
    ascii_chars = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
    return max(1, round(ascii_chars / _ASCII_PER_TOKEN + (len(text) - ascii_chars) / _OTHER_PER_TOKEN))


def message_tokens(message: Message) -> int:
    """About how many tokens one message is."""
    media = sum(isinstance(part, Media) for part in message.parts)
    calls = sum(tokens(call.name) + tokens(call.arguments_json) for call in message.tool_calls)
    return _TOKENS_PER_MESSAGE + tokens(message.text) + calls + media * _TOKENS_PER_MEDIA


def prompt_tokens(request: ModelRequest) -> int:
    """About how many tokens a request sends."""
    tools = sum(tokens(f"{tool.name}{tool.description}{tool.parameters}") for tool in request.tools)
    return tokens(request.instructions) + tools + sum(message_tokens(message) for message in request.messages)


def output_tokens(output: str, pieces: int) -> int:
    """About how many tokens an answer is that came in so many chunks.

    Most vendors send every token by itself, and then the chunks are the count, whatever the language. Who sends several
    tokens or single characters in one is known by how much that is.
    """
    by_length = tokens(output)
    return pieces if pieces * _LEAST_PER_TOKEN <= by_length <= pieces * _MOST_PER_TOKEN else by_length


def usage(request: ModelRequest, output: str, pieces: int) -> Usage:
    """The usage of an answer whose vendor did not say."""
    return Usage(input_tokens=prompt_tokens(request), output_tokens=output_tokens(output, pieces), estimated=True)
