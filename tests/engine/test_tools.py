"""A tool from its signature: the schema a model sees, the arguments a function gets."""

import asyncio
from typing import Annotated, Any, Literal

import msgspec
import pytest

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import ToolProgress, ToolResult, ToolStatus
from agentsvc.domain.messages import Media, Part, Text, ToolCall
from agentsvc.domain.ports import ToolContext
from agentsvc.engine.tools import Tool, ToolError, Toolset, run_tools, tool


class Place(msgspec.Struct):
    """Where."""

    city: str
    country: str = "NO"


async def outcome(function: Tool, arguments: str = "{}", **metadata: Any) -> ToolResult:
    tools = Toolset.of([function])
    asked = [ToolCall("1", function.spec.name, arguments)]
    events = [e async for e in run_tools(tools, asked, run_id="run_1", user_id="u1", metadata=metadata)]
    (result,) = events
    assert isinstance(result, ToolResult)
    return result


def test_the_schema_comes_from_the_signature() -> None:
    @tool
    async def find(place: Place, unit: Literal["C", "F"] = "C", days: Annotated[int, msgspec.Meta(ge=1)] = 1) -> str:
        """Finds the weather."""
        return f"{place.city} {unit} {days}"

    assert (find.spec.name, find.spec.description) == ("find", "Finds the weather.")
    schema = find.spec.parameters
    assert schema["type"] == "object"
    assert schema["required"] == ["place"]
    assert schema["properties"]["unit"] == {"enum": ["C", "F"], "default": "C"}
    assert schema["properties"]["place"] == {"$ref": "#/$defs/Place"}
    assert schema["$defs"]["Place"]["required"] == ["city"]


def test_the_context_is_not_the_models_business() -> None:
    @tool(name="other", description="Says so.", timeout=2, idempotent=True)
    async def find(context: ToolContext) -> str:
        return context.run_id

    assert find.spec.parameters["properties"] == {}
    assert (find.spec.name, find.spec.description, find.timeout, find.idempotent) == ("other", "Says so.", 2, True)


async def test_arguments_arrive_as_their_types_with_the_calls_context() -> None:
    @tool
    async def find(place: Place, context: ToolContext, days: int = 1) -> list[Any]:
        return [place.city, place.country, days, context.run_id, context.user_id, context.metadata["k"]]

    result = await outcome(find, '{"place":{"city":"Oslo"}}', k="v")

    assert result.content == (Text('["Oslo","NO",1,"run_1","u1","v"]'),)


async def test_a_plain_function_runs_in_a_thread_and_blocks_nobody() -> None:
    loop_runs = asyncio.Event()
    loop = asyncio.get_running_loop()

    @tool
    def blocking() -> str:
        asyncio.run_coroutine_threadsafe(loop_runs.wait(), loop).result(10)
        return "done"

    loop.call_later(0.01, loop_runs.set)
    assert (await outcome(blocking)).content == (Text("done"),)


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("text", (Text("text"),)),
        ("half \ud800", (Text("half ?"),)),
        ((Text("\udfff"),), (Text("?"),)),
        (Text("part"), (Text("part"),)),
        ((Text("a"), Media("image", "image/png", b"x")), (Text("a"), Media("image", "image/png", b"x"))),
        ({"a": [1, None]}, (Text('{"a":[1,null]}'),)),
        (None, (Text("null"),)),
        ((), (Text("[]"),)),
        (Place("Oslo"), (Text('{"city":"Oslo","country":"NO"}'),)),
    ],
)
async def test_whatever_a_tool_returns_becomes_parts(value: Any, content: tuple[Part, ...]) -> None:
    @tool
    async def give() -> Any:
        return value

    result = await outcome(give)

    assert (result.status, result.content) == (ToolStatus.OK, content)


async def test_what_a_tool_says_can_always_be_sent() -> None:
    @tool
    async def odd(context: ToolContext) -> None:
        context.progress("half \ud800" + "x" * 10_000, 7)
        context.progress("lost", float("nan"))
        raise ToolError("half \ud800" + "x" * 1_000_000)

    tools = Toolset.of([odd])
    call = ToolCall("call_1", "odd", "{}")
    events = [e async for e in run_tools(tools, [call], run_id="run_1", user_id="u1", metadata={})]

    first, second, result = events
    assert isinstance(first, ToolProgress)
    assert isinstance(second, ToolProgress)
    assert isinstance(result, ToolResult)
    assert (first.message[:7], len(first.message), first.fraction) == ("half ?x", 4096, 1.0)
    assert (second.message, second.fraction) == ("lost", None)
    assert result.status is ToolStatus.ERROR
    (words,) = result.content
    assert isinstance(words, Text)
    assert (words.text[:7], len(words.text)) == ("half ?x", 16_384)


def test_a_toolset_keeps_its_order_and_refuses_unknown_names() -> None:
    @tool
    def b() -> None: ...

    @tool
    def a() -> None: ...

    tools = Toolset.of([b, a])
    assert [spec.name for spec in tools.specs] == ["b", "a"]
    assert [spec.name for spec in tools.pick(["a"]).specs] == ["a"]
    with pytest.raises(AgentsvcError, match=r"no tool named 'c'.*a, b") as raised:
        tools.pick(["a", "c"])
    assert raised.value.reason is Reason.INVALID_FIELD
