"""What decoding costs per token, beside bare ``json.loads`` of the same payloads.

    python -m bench.decode [--tokens 20000] [--read 65536]

Each dialect decodes one long answer in reads of the given size; the best of several rounds counts. ``paced`` hands over
one event per read, as a slow model does: there the fixed cost of a read shows. Ends with 1 when a dialect takes more than
half of what ``json.loads`` takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

from agentsvc.providers.anthropic import Anthropic
from agentsvc.providers.cohere import Cohere
from agentsvc.providers.dashscope import DashScope
from agentsvc.providers.dialect import Dialect
from agentsvc.providers.errors import Vendor
from agentsvc.providers.gemini import Gemini
from agentsvc.providers.ollama import Ollama
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_responses import OpenAIResponses
from agentsvc.providers.qianfan_v1 import QianfanV1

VENDOR = Vendor("bench", "Bench")
ROUNDS = 7
MUST = 0.5  # of bare json.loads


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


# One event of each vendor's own format as it is on the wire, framing included; {} is where the JSON stands.
WIRES: dict[str, tuple[Dialect, str, str]] = {
    "anthropic": (
        Anthropic(VENDOR),
        "event: content_block_delta\ndata: {}\n\n",
        '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" token%d"}        }',
    ),
    "gemini": (
        Gemini(VENDOR),
        "data: {}\r\n\r\n",
        (
            '{"candidates": [{"content": {"parts": [{"text": " token%d"}],"role": "model"},"index": 0}],"usageMetadata": '
            '{"promptTokenCount": 22,"candidatesTokenCount": 27,"totalTokenCount": 117,"promptTokensDetails": [{"modality": '
            '"TEXT","tokenCount": 22}],"thoughtsTokenCount": 68},"modelVersion": "gemini-2.5-flash","responseId": "M1GDaNrGOJ"}'
        ),
    ),
    "cohere-v2": (
        Cohere(VENDOR),
        "event: content-delta\ndata: {}\n\n",
        '{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":" token%d"}}}}',
    ),
    "ollama": (
        Ollama(VENDOR),
        "{}\n",
        (
            '{"model":"llama3","created_at":"2025-05-24T20:26:46.327411Z","message":{"role":"assistant","content":" token%d"},'
            '"done":false}'
        ),
    ),
    "dashscope": (
        DashScope(VENDOR),
        "id:7\nevent:result\n:HTTP_STATUS/200\ndata:{}\n\n",
        (
            '{"output":{"choices":[{"message":{"content":" token%d","role":"assistant"},"finish_reason":"null"}]},"usage":{'
            '"total_tokens":39,"output_tokens":4,"input_tokens":35,"prompt_tokens_details":{"cached_tokens":0}},"request_id":'
            '"fd5a3067-858a-4604-ab8e-8b9e40796e99"}'
        ),
    ),
    "qianfan-v1": (
        QianfanV1(VENDOR),
        "data: {}\n\n",
        (
            '{"id":"as-gtbgh1agd9","object":"chat.completion","created":1710064974,"sentence_id":0,"is_end":false,"is_truncated":'
            'false,"result":" token%d","need_clear_history":false,"finish_reason":"normal","usage":{"prompt_tokens":689,'
            '"completion_tokens":0,"total_tokens":689}}'
        ),
    ),
    "openai-responses": (
        OpenAIResponses(VENDOR),
        "event: response.output_text.delta\ndata: {}\n\n",
        (
            '{"type":"response.output_text.delta","content_index":0,"delta":" token%d","item_id":"msg_0200025d411b0585016a3c13b6",'
            '"logprobs":[],"obfuscation":"DQVHD6AboERE","output_index":1,"sequence_number":9}'
        ),
    ),
}


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


def row(name: str, dialect: Dialect, frame: str, payloads: list[bytes], read: int) -> float:
    """Measures and prints one line; the ratio."""
    before, after = frame.encode().split(b"{}")
    records = [before + payload + after for payload in payloads]
    wire = b"".join(records)
    reads = [wire[at : at + read] for at in range(0, len(wire), read)]
    scale = 1e6 / len(payloads)
    baseline = best(lambda: [json.loads(payload) for payload in payloads]) * scale
    flood = best(lambda: decode(dialect, reads)) * scale
    paced = best(lambda: decode(dialect, records)) * scale
    print(
        f"{name:24} {flood:6.2f} us/token  {flood / baseline:5.2f}x json.loads ({baseline:.2f} us)   paced {paced:5.2f} us"
    )
    return flood / baseline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--read", type=int, default=65_536)
    options = parser.parse_args()
    chat, tokens = OpenAIChat(VENDOR), range(options.tokens)
    reasoning = chat_payloads(options.tokens, "reasoning_content")
    content = chat_payloads(options.tokens, "content")
    rows: list[tuple[str, Dialect, str, list[bytes]]] = [
        ("openai-chat", chat, "data: {}\n\n", content),
        ("openai-chat, reasoning", chat, "data: {}\n\n", reasoning),
        ("openai-chat, exact path", chat, "data:{}\n\n", content),
        *(
            (name, dialect, frame, [(one % n).encode() for n in tokens])
            for name, (dialect, frame, one) in WIRES.items()
        ),
    ]
    if max([row(*each, options.read) for each in rows]) > MUST:
        sys.exit(1)


if __name__ == "__main__":
    main()
