"""The command line, as processes: what a person types, sees and gets back as an exit code."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from agentsvc.client import AgentClient, AgentError
from agentsvc.main import GRPC_LISTENER, cli

ROOT = Path(__file__).resolve().parent.parent
Typed = Callable[..., Result]
BUF = Path(sys.executable).with_name("buf")


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Nothing of this process's own settings; as good as a fresh machine."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT), **variables}


def agentsvc(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentsvc.main", *arguments]
    return subprocess.run(
        command, cwd=home, env=environment(home, **variables), capture_output=True, text=True, timeout=40, check=False
    )


@contextmanager
def serving(home: Path, *arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``agentsvc serve`` on a free port, and its address once it is ready."""
    command = [sys.executable, "-m", "agentsvc.main", "serve", *arguments]
    variables = {"AGENTSVC_GRPC_ADDRESS": "127.0.0.1:0", "AGENTSVC_ADMIN_ADDRESS": "127.0.0.1:0"} | variables
    with (
        (home / "log").open("w") as log,
        subprocess.Popen(
            command, cwd=home, env=environment(home, **variables), stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            match = re.fullmatch(r"agentsvc is ready: gRPC on (127\.0\.0\.1:\d+)\n", ready)
            assert match, ready + (home / "log").read_text()
            yield process, match[1]
        finally:
            process.kill()


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """A command in this process, where starting one would prove no more."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("AGENTSVC_")]:
        monkeypatch.delenv(name)

    def invoke(*arguments: str, exit_code: int = 0, input: str = "", **variables: str) -> Result:  # noqa: A002 - click's word
        result = CliRunner().invoke(cli, arguments, env=variables, input=input)
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


def test_the_demo_needs_nothing_and_shows_tokens_a_tool_call_and_where_the_time_went(tmp_path: Path):
    shown = agentsvc(tmp_path, "demo")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.search(r"→ get_weather\(\{.*\}\)", shown.stdout)
    assert re.search(r"← .*4 °C.* ms\)", shown.stdout)
    assert "COMPLETED" in shown.stdout
    assert re.search(r"^first_token .*█", shown.stdout, re.MULTILINE)
    said = re.search(r"first token after ([\d.]+) ms: ([\d.]+) ms ours, ([\d.]+) ms the provider's", shown.stdout)
    assert said is not None
    total, ours, theirs = map(float, said.groups())
    assert total == pytest.approx(ours + theirs, abs=0.11)
    assert list(tmp_path.iterdir()) == []


class TestServeDev:
    def test_the_printed_grpcurl_line_works_and_sigterm_ends_it_in_order(self, tmp_path: Path):
        with serving(tmp_path, "--dev") as (process, address):
            assert process.stdout is not None
            assert "admin token" in process.stdout.readline()
            program, *arguments = shlex.split(process.stdout.readline())
            assert program == "grpcurl"
            assert arguments[:2] == ["-plaintext", "-H"]
            _, _, header, _, body, said_address, method = arguments
            assert said_address == address
            # buf curl asks the server's reflection for the schema, as grpcurl does.
            curl = [BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-H", header, "-d", body]
            answer = subprocess.run(
                [*curl, f"http://{address}/{method}"],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert answer.returncode == 0, answer.stderr
            assert '"generationCompleted"' in answer.stdout
            assert answer.stdout.rstrip().endswith("}")
            assert '"RUN_STATE_COMPLETED"' in answer.stdout
            assert agentsvc(tmp_path, "health", "--target", address).returncode == 0
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        assert agentsvc(tmp_path, "health", "--target", address).returncode == 1
        (line,) = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())
        assert (line["event"], line["tenant"], line["agent"], line["state"]) == (
            "run ended",
            "dev",
            "demo",
            "completed",
        )

    @pytest.mark.skipif(sys.platform != "linux", reason="scheduling policies are Linux's")
    def test_no_thread_of_grpcs_pushes_the_event_loop_aside(self, tmp_path: Path):
        with serving(tmp_path, "--dev") as (process, _):
            threads = {
                int(task.name): (task / "comm").read_text().strip()
                for task in Path(f"/proc/{process.pid}/task").iterdir()
            }
            engine = [thread for thread, name in threads.items() if name.startswith("event_engine")]
            assert engine
            assert {os.sched_getscheduler(thread) for thread in engine} == {os.SCHED_BATCH}
            others = {thread: os.sched_getscheduler(thread) for thread in threads if thread not in engine}
            assert others[process.pid] == os.SCHED_OTHER
            assert os.SCHED_BATCH in others.values()  # the one that serves the completion queue, a Python thread

    async def test_its_token_can_be_chosen_and_dies_with_it(self, tmp_path: Path):
        with serving(tmp_path, "--dev", AGENTSVC_DEV_TOKEN="chosen") as (process, address):
            async with AgentClient(address, "chosen") as client:
                answer = await client.chat(agent_id="demo", message="hello", options={"model": "mock-echo"})
            assert answer.text == "hello"
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        with serving(tmp_path, "--dev") as (_, address):
            async with AgentClient(address, "chosen") as client:
                with pytest.raises(AgentError, match="UNAUTHENTICATED"):
                    await client.chat(agent_id="demo", message="hello")


def test_an_operators_day(tmp_path: Path, typed: Typed):
    """Tokens and agents are made beside the running service, which notices."""
    database = {"AGENTSVC_DATABASE_URL": f"sqlite:///{tmp_path / 'service.sqlite3'}"}
    assert typed("migrate", **database).stdout == "the database is up to date\n"
    with serving(tmp_path, **database) as (_, address):
        made = typed("token", "create", "--org", "acme", "--name", "ci", "--expires-in", "1h", **database)
        token = made.stdout.strip()
        assert token not in made.stderr
        typed("agent", "create", "echo", "--org", "acme", "--provider", "mock", **database)
        switched = typed("agent", "set-model", "echo", "mock-echo", "--org", "acme", **database)
        assert switched.stdout == "agent echo answers with mock/mock-echo\n"
        assert re.search(
            r"^echo .* mock +mock-echo ", typed("agent", "list", "--org", "acme", **database).stdout, re.MULTILINE
        )

        chat = ("chat", "--agent", "echo", "--target", address, "--token", token)
        asked = typed(*chat, "hello there")
        assert "\nhello there\n" in asked.stdout
        assert "first token after" in asked.stdout

        talked = typed(*chat, input="first\nsecond\n")
        assert "\nsecond\n" in talked.stdout

        listed = typed("token", "list", "--org", "acme", **database).stdout
        assert re.search(r"caller +ci .* active", listed)
        assert token not in listed
        # From another process: more than a second passes while this one starts, and the next is refused.
        revoked = agentsvc(tmp_path, "token", "revoke", token, "--org", "acme", **database)
        assert (revoked.returncode, revoked.stdout) == (0, "revoked\n")
        refused = agentsvc(tmp_path, *chat, "hello again")
        assert refused.returncode == 2
        assert refused.stderr.startswith("agentsvc: UNAUTHENTICATED: ")
        lone, first, second = re.findall(r"session_[0-9a-f]{8,}", (tmp_path / "log").read_text())
        assert lone != first == second


def test_help_answers_without_loading_the_service(tmp_path: Path):
    heavy = {"grpc", "sqlalchemy", "aiohttp", "pydantic", "structlog"}
    code = f"import sys, agentsvc.main; print({heavy} & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, timeout=40, check=False
    )
    assert (run.returncode, run.stdout) == (0, "set()\n")


@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        (["serve"], {"AGENTSVC_GRPC_ADRESS": "x"}, "did you mean AGENTSVC_GRPC_ADDRESS?"),
        (["serve"], {"AGENTSVC_DEV_TOKEN": "x"}, "`agentsvc serve --dev` only"),
        (["serve"], {"AGENTSVC_GRPC_ADDRESS": "0.0.0.0:0"}, "AGENTSVC_GRPC_PLAINTEXT=allow"),
        (["serve"], {"AGENTSVC_REDIS_URL": "redis://localhost"}, "not built yet"),
        (["serve"], {"AGENTSVC_TOOLS": "nowhere:tool"}, "AGENTSVC_TOOLS names 'nowhere:tool'"),
        (["serve"], {"AGENTSVC_DATABASE_URL": "sqlite:////no/such/folder/x"}, "unable to open database file"),
        (["serve"], {"AGENTSVC_DATABASE_URL": "postgresql://u:pw@127.0.0.1:1/x"}, "AGENTSVC_DATABASE_URL names cannot"),
        (["serve", "--dev"], {"AGENTSVC_GRPC_ADDRESS": "0.0.0.0:0"}, "--dev listens on loopback only"),
        (["serve", "--dev"], {"AGENTSVC_DATABASE_URL": "sqlite:///x"}, "--dev keeps to its own SQLite file"),
        (["serve", "--workers", "2"], {}, "--workers needs Redis"),
        (["token", "list"], {}, "give --org"),
        (["token", "revoke", "0123", "--org", "acme"], {}, "has no such token"),
        (["agent", "set-model", "nobody", "m", "--org", "acme"], {}, "There is no agent 'nobody'"),
        (["agent", "create", "a", "--org", "acme", "--provider", "x"], {}, "'x' is not a provider"),
        (["chat", "hello"], {"AGENTSVC_TOKEN": ""}, "give --token or set AGENTSVC_TOKEN"),
    ],
)
def test_what_a_person_can_mend_is_one_line_and_exit_code_2(
    typed: Typed, arguments: list[str], variables: dict[str, str], told: str
):
    (line,) = typed(*arguments, exit_code=2, **variables).stderr.splitlines()
    assert line.startswith("agentsvc: ")
    assert told in line
    assert "pw@" not in line


def test_a_time_span_is_checked_where_it_is_typed(typed: Typed):
    assert (
        "'soon' is no time span"
        in typed("token", "create", "--org", "acme", "--expires-in", "soon", exit_code=2).output
    )


def test_providers_are_listed_with_the_setting_that_is_missing(typed: Typed):
    shown = typed("providers", OPENAI_API_KEY="sk-something-secret").stdout
    assert re.search(r"^openai .* yes", shown, re.MULTILINE)
    assert re.search(r"^anthropic .* no: .*ANTHROPIC_API_KEY", shown, re.MULTILINE)
    assert "secret" not in shown


class TestProvidersOfARunningService:
    def test_an_admin_sees_how_they_are_doing(self, tmp_path: Path, typed: Typed):
        said = {"AGENTSVC_DEV_TOKEN": "chosen", "OPENAI_API_KEY": "k1,k2"}
        said["OPENAI_BASE_URL"] = "eu=http://127.0.0.1:9,us=http://127.0.0.1:7"
        with serving(tmp_path, "--dev", **said) as (_, address):
            shown = typed("providers", "--target", address, "--token", "chosen").stdout
            told = json.loads(typed("providers", "--target", address, "--token", "chosen", "--json").stdout)
        assert re.search(r"^openai +\S+ +yes +closed +- +0 +tools, ", shown, re.MULTILINE)
        assert re.search(r"^  eu +127\.0\.0\.1:9 +closed", shown, re.MULTILINE)
        assert re.search(r"^anthropic .* no: set ANTHROPIC_API_KEY +- +- +0", shown, re.MULTILINE)
        (openai,) = (each for each in told["providers"] if each["provider"] == "openai")
        assert [each["region"] for each in openai["endpoints"]] == ["eu", "us"]
        assert (openai["breakerState"], openai["capabilities"]["streaming"]) == ("BREAKER_STATE_CLOSED", True)

    def test_where_none_runs_the_settings_are_shown(self, typed: Typed):
        shown = typed("providers", "--target", "127.0.0.1:9", "--token", "any", OPENAI_API_KEY="secret")
        assert shown.stderr == "no service answers on 127.0.0.1:9: this is what is configured here\n"
        assert re.search(r"^openai .* yes", shown.stdout, re.MULTILINE)
        assert "breaker" not in shown.stdout

    def test_who_is_no_admin_is_told_so(self, tmp_path: Path, typed: Typed):
        with serving(tmp_path, "--dev") as (_, address):
            refused = typed("providers", "--target", address, "--token", "guessed", exit_code=2)
        assert refused.stderr.startswith("agentsvc: UNAUTHENTICATED: ")


def test_grpc_still_knows_the_switch_that_is_set_for_it() -> None:
    """An unknown name is ignored in silence: what it brought would be gone, and nobody told."""
    from grpc._cython import cygrpc  # type: ignore[attr-defined]  # no stubs

    assert f"\0{GRPC_LISTENER}\0".encode() in Path(cygrpc.__file__).read_bytes()
