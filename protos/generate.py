"""Makes ``agentsvc/v1`` from ``protos/agentsvc/v1``, with the tools of the Python that runs this file.

    python protos/generate.py              write the stubs
    python protos/generate.py --check      compare only; names the files that differ and exits 1
    python protos/generate.py --breaking   buf breaking: the contract against protos/agentsvc.binpb
    python protos/generate.py --accept     the same, and if nothing breaks the contract becomes protos/agentsvc.binpb

The stubs refuse a runtime older than their generator, so ``TOOLS`` are pinned to the oldest ones we support.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
VENDOR = PROTOS / "vendor"
IMAGE = PROTOS / "agentsvc.binpb"
PACKAGE = Path("agentsvc/v1")
TOOLS = {"grpcio-tools": "1.82.1", "mypy-protobuf": "5.1.0"}

# PyPI has no buf.validate for google.protobuf any more (protovalidate 2 brings its own runtime), but a process can hold
# only one: ours steps back when the application has one installed.
BUF_INIT = '''\
"""The descriptors of buf/validate: the installed package's if there is one, else our copy."""

try:
    from buf.validate import validate_pb2
except ImportError:
    from agentsvc.v1._buf import validate_pb2

__all__ = ["validate_pb2"]
'''


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare with what is there; write nothing")
    mode.add_argument("--breaking", action="store_true", help="compare the contract with the accepted one")
    mode.add_argument("--accept", action="store_true", help="the same, and accept it")
    arguments = parser.parse_args()
    if arguments.breaking or arguments.accept:
        sys.exit(breaking(accept=arguments.accept))
    if wrong := [f"{name}=={pin} (found: {found})" for name, pin in TOOLS.items() if (found := installed(name)) != pin]:
        sys.exit(f"generate.py needs {', '.join(wrong)}")
    with tempfile.TemporaryDirectory() as directory:
        generate(Path(directory))
        made, there = Path(directory) / PACKAGE, ROOT / PACKAGE
        if not arguments.check:
            shutil.rmtree(there, ignore_errors=True)
            shutil.copytree(made, there)
        elif drifted := sorted(drift(made, there)):
            sys.exit("\n".join(["generated files are not up to date; run python protos/generate.py", *drifted]))


def installed(name: str) -> str:
    """The version of an installed package, or "none"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def generate(out: Path) -> None:
    """Everything that lies in ``agentsvc/v1``, below ``out``."""
    sources = sorted(path.relative_to(PROTOS).as_posix() for path in (PROTOS / PACKAGE).glob("*.proto"))
    protoc("--python_out=", out=out, sources=[*sources, "buf/validate/validate.proto"])
    protoc("--mypy_out=quiet:", out=out, sources=sources)
    protoc("--descriptor_set_out=", out=out / "set", sources=sources)
    files = FileDescriptorSet.FromString((out / "set").read_bytes()).file
    services = [file.name for file in files if file.service]
    protoc("--grpc_python_out=", "--mypy_grpc_out=quiet:", out=out, sources=services)

    shutil.move(out / "buf/validate", out / PACKAGE / "_buf")
    (out / PACKAGE / "_buf/__init__.py").write_text(BUF_INIT)
    (out / PACKAGE / "__init__.py").write_text(reexports(files))
    for path in (out / PACKAGE).glob("*.py*"):
        text = path.read_text()
        path.write_text(text.replace("from buf.validate import", "from agentsvc.v1._buf import"))


def protoc(*options: str, out: Path, sources: list[str]) -> None:
    """Runs protoc over ``sources``; each option asks for one kind of output, all of them go to ``out``."""
    beside = Path(sys.executable).parent  # plugins of this environment, whether it is activated or not
    plugins = [f"--plugin={plugin}={beside / plugin}" for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{VENDOR}", *plugins]
    subprocess.run([*command, *(f"{option}{out}" for option in options), *sources], check=True)


def reexports(files: Iterable[FileDescriptorProto]) -> str:
    """``agentsvc/v1/__init__.py``: every public name of every file, sorted."""
    modules = {module: sorted(names) for file in files for module, names in public_names(file) if names}
    lines = [
        '"""The contract of agentsvc, for callers: ``from agentsvc import v1``, then ``v1.StreamChatRequest(...)``.',
        "",
        "Everything of protos/agentsvc/v1 in one place: messages, enums and their values, service stubs and servicers. What the",
        "comments there say stands in the .pyi files. Made by protos/generate.py; do not edit.",
        '"""',
        "",
    ]
    for module, names in sorted(modules.items()):
        lines += [f"from agentsvc.v1.{module} import (", *(f"    {name}," for name in names), ")"]
    everything = sorted(name for names in modules.values() for name in names)
    return "\n".join([*lines, "", "__all__ = [", *(f'    "{name}",' for name in everything), "]", ""])


def public_names(file: FileDescriptorProto) -> Iterator[tuple[str, list[str]]]:
    """The generated modules of one file, each with the names worth importing from it."""
    stem = Path(file.name).stem
    kinds = [*(message.name for message in file.message_type), *(enum.name for enum in file.enum_type)]
    yield f"{stem}_pb2", [*kinds, *(value.name for enum in file.enum_type for value in enum.value)]
    forms = ("{}Stub", "{}Servicer", "add_{}Servicer_to_server")
    yield f"{stem}_pb2_grpc", [form.format(service.name) for service in file.service for form in forms]


def drift(made: Path, there: Path) -> Iterator[str]:
    """What differs between two trees, one line per file."""
    new, old = contents(made), contents(there)
    yield from (f"  missing: {PACKAGE / name}" for name in new - old)
    yield from (f"  stale:   {PACKAGE / name}" for name in old - new)
    for name in new & old:
        if not filecmp.cmp(made / name, there / name, shallow=False):
            yield f"  differs: {PACKAGE / name}"


def contents(directory: Path) -> set[str]:
    """The files below ``directory``, relative to it."""
    files = (path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(directory).as_posix() for path in files}


def breaking(*, accept: bool) -> int:
    """Compares image with image: buf takes the workspace of two modules for two images and the accepted one for one."""
    buf = Path(sys.executable).parent / "buf"
    with tempfile.TemporaryDirectory() as directory:
        present = Path(directory) / "present.binpb"
        subprocess.run([buf, "build", "-o", present], cwd=ROOT, check=True)
        against = [str(part) for part in (buf, "breaking", present, "--against", IMAGE)]
        broken = IMAGE.exists() and subprocess.run(against, cwd=ROOT, check=False).returncode
    if accept and not broken:
        subprocess.run([buf, "build", "--exclude-source-info", "-o", IMAGE], cwd=ROOT, check=True)
    return int(broken)


if __name__ == "__main__":
    main()
