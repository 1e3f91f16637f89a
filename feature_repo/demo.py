"""The whole of feast-recsys on MovieLens 100K: data, training, export, materialization, server, recommendations.

Each step is a command that you could type yourself, and is shown as such. `make demo` runs this file.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.rule import Rule

REPO = Path(__file__).parent
BIN = Path(sys.executable).parent
DATA = REPO / "data"
MODELS = ("movies_retrieval", "movies_ranking")
console = Console(highlight=False)


def main(users: list[str]) -> None:
    started = time.monotonic()
    announce(1, "Data: MovieLens 100K into Parquet files", "python prepare.py")
    run(sys.executable, "prepare.py")
    announce(2, "Feast: register entities, views and services", "feast apply")
    run(str(BIN / "feast"), "apply", quiet=True)
    announce(3, "Train both models, measure both stages", "feast-recsys train")
    if trained():
        console.print("  already trained on this data; [bold]make clean[/bold] starts over")
    else:
        recsys("train")
    announce(4, "Export to ONNX, prove parity with PyTorch", "feast-recsys export")
    if exported():
        console.print("  already exported")
    else:
        recsys("export")
    announce(5, "Features online, items embedded, bundle published", "feast-recsys materialize")
    recsys("materialize")
    announce(6, "Serve over gRPC", "feast-recsys serve")
    with server() as address:
        announce(7, "Ask, as a backend service would", "feast-recsys retrieve, recommend")
        for user in users:
            console.print(Rule(f"user {user}", style="dim"))
            history(user)
            recsys("retrieve", "--user", user, "--top-k", "10", "--address", address)
            console.print()
            recsys("recommend", "--user", user, "--address", address)
    quality()
    console.print(f"\nDone in {time.monotonic() - started:.0f} s. [bold]make serve[/bold] keeps the server up.")


def announce(number: int, what: str, command: str) -> None:
    console.print(f"\n[bold cyan]{number}/7[/bold cyan] [bold]{what}[/bold]  [dim]$ {command}[/dim]")


def recsys(*arguments: str) -> None:
    run(str(BIN / "feast-recsys"), *arguments)


def run(*command: str, quiet: bool = False) -> None:
    """Runs a step in the repository's folder. What a quiet one says is shown only if it fails."""
    done = subprocess.run(
        command,
        cwd=REPO,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        console.print(f"[red]{' '.join(command)} failed with exit code {done.returncode}[/red]\n{done.stdout or ''}")
        sys.exit(done.returncode)


def trained() -> bool:
    """Whether both checkpoints are newer than all that they are made from."""
    sources = [DATA / "prepared.json", REPO / "definitions.py", REPO / "feature_store.yaml"]
    sources += [path for room in ("models", "features") for path in (REPO.parent / room).rglob("*.py")]
    return newer([DATA / "checkpoints" / name / "metrics.json" for name in MODELS], sources)


def exported() -> bool:
    """Whether both exported models are newer than their checkpoints and the exporter."""
    sources = [DATA / "checkpoints" / name / "metrics.json" for name in MODELS]
    sources += (REPO.parent / "exporters").rglob("*.py")
    return newer([DATA / "models" / name / "model.yaml" for name in MODELS], sources)


def newer(outputs: list[Path], sources: list[Path]) -> bool:
    if not all(path.exists() for path in outputs):
        return False
    return min(path.stat().st_mtime for path in outputs) > max(path.stat().st_mtime for path in sources)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A running server; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    log = DATA / "serve.log"
    with log.open("w") as output:
        command = [str(BIN / "feast-recsys"), "serve", "--address", address]
        process = subprocess.Popen(command, cwd=REPO, stdout=output, stderr=output)
    try:
        with console.status("starting"):
            wait_until_serving(address, process, log)
        console.print(f"  serving at {address}, log in {os.path.relpath(log)}")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_until_serving(address: str, process: subprocess.Popen[bytes], log: Path, patience: float = 60.0) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        until = time.monotonic() + patience
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(grpc.RpcError):
                reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0, wait_for_ready=True)
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            time.sleep(0.1)
    console.print(f"[red]the server did not get ready[/red]\n{log.read_text()}")
    sys.exit(1)


def history(user: str) -> None:
    """Prints what the user liked last, as the online store has it."""
    from feast_recsys.bundle.signature import Side
    from feast_recsys.bundle.snapshot import open_snapshot
    from feast_recsys.bundle.store import SNAPSHOT_FOLDER, current
    from feast_recsys.features.plan import compile_plan
    from feast_recsys.features.reader import OnlineReader
    from feast_recsys.features.repo import entity_key, open_repo

    repo = open_repo(REPO)
    liked = "user_history:item_ids"
    key = entity_key(repo, Side.USER).parse(user)
    column = OnlineReader(repo, compile_plan(repo, [liked], Side.USER)).read([key])[liked]
    recent = [str(item) for item in column.to_list()[0] or []][:5]
    root = repo.resolve(repo.settings.bundles)
    snapshot = open_snapshot(root / str(current(root)) / SNAPSHOT_FOLDER)
    names = snapshot.gather("item_profile:title", snapshot.rows(recent)).to_list()
    console.print(f"[bold]Liked last:[/bold] {' · '.join(names) or 'nothing yet'}\n")


def quality() -> None:
    """Prints what `train` measured."""
    from feast_recsys.cli.train import show
    from feast_recsys.evaluation.protocol import Evaluation

    metrics = json.loads((DATA / "checkpoints" / "movies_ranking" / "metrics.json").read_text())
    console.print(Rule("quality", style="dim"))
    show(Evaluation.from_dict(metrics["evaluation"]))


if __name__ == "__main__":
    main(sys.argv[1:] or ["42", "196", "405"])
