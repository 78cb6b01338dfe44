"""What decoding costs per token, beside bare ``json.loads`` of the same payloads.

    python -m bench.decode [--tokens 20000] [--read 65536]

Each dialect decodes one long answer in reads of the given size; the best of several rounds counts. ``paced`` hands over
one event per read, as a slow model does: there the fixed cost of a read shows.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

from agentsvc.providers.anthropic import Anthropic
from agentsvc.providers.dialect import Dialect
from agentsvc.providers.errors import Vendor
from agentsvc.providers.openai_chat import OpenAIChat

VENDOR = Vendor("bench", "Bench")
ROUNDS = 7


def chat_payloads(tokens: int, field: str) -> list[bytes]:
    return [
        json.dumps(
            {
                "id": "chatcmpl-AbCdEfGhIjKlMnOpQrSt",
                "object": "chat.completion.chunk",
                "created": 1760000000,
                "model": "gpt-4o-mini-2024-07-18",
                "service_tier": "default",
                "system_fingerprint": "fp_0123456789",
                "choices": [{"index": 0, "delta": {field: f" token{n}"}, "logprobs": None, "finish_reason": None}],
                "usage": None,
                "obfuscation": "abcdefgh",
            },
            separators=(",", ":"),
        ).encode()
        for n in range(tokens)
    ]


def messages_payloads(tokens: int) -> list[bytes]:
    delta = '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" token%d"}        }'
    return [(delta % n).encode() for n in range(tokens)]


def best(work: Callable[[], object]) -> float:
    """Seconds of the fastest round."""
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def decode(dialect: Dialect, reads: list[bytes]) -> int:
    decoder = dialect.decoder()
    return sum(len(decoder.feed(read)) for read in reads)


def row(name: str, dialect: Dialect, prefix: bytes, payloads: list[bytes], read: int) -> None:
    records = [prefix + payload + b"\n\n" for payload in payloads]
    wire = b"".join(records)
    reads = [wire[at : at + read] for at in range(0, len(wire), read)]
    scale = 1e6 / len(payloads)
    baseline = best(lambda: [json.loads(payload) for payload in payloads]) * scale
    flood = best(lambda: decode(dialect, reads)) * scale
    paced = best(lambda: decode(dialect, records)) * scale
    print(
        f"{name:24} {flood:6.2f} us/token  {flood / baseline:5.2f}x json.loads ({baseline:.2f} us)   paced {paced:5.2f} us"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--read", type=int, default=65_536)
    options = parser.parse_args()
    chat, claude = OpenAIChat(VENDOR), Anthropic(VENDOR)
    row("openai-chat", chat, b"data: ", chat_payloads(options.tokens, "content"), options.read)
    row("openai-chat, reasoning", chat, b"data: ", chat_payloads(options.tokens, "reasoning_content"), options.read)
    row("openai-chat, exact path", chat, b"data:", chat_payloads(options.tokens, "content"), options.read)
    event = b"event: content_block_delta\ndata: "
    row("anthropic", claude, event, messages_payloads(options.tokens), options.read)


if __name__ == "__main__":
    main()
