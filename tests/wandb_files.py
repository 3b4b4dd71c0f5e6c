"""What W&B wrote offline, by its own reader."""

import json
import subprocess
import sys
from pathlib import Path


def offline_runs(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("run-*.wandb") if "latest-run" not in p.parts)


def read_back(file: Path) -> dict:
    """Id, group, configuration, rows, summary, charts, artifacts and exit status of one run."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    found: dict = {"history": [], "summary": {}, "config": {}, "artifacts": {}, "exit": None}
    for line in map(json.loads, done.stdout.splitlines()):
        if line["type"] == "history":
            found["history"].append(line["history"]["item"])
        elif line["type"] == "summary":
            found["summary"] |= line["summary"]["update"]
        elif line["type"] == "run":
            found |= {"id": line["run"]["run_id"], "group": line["run"]["run_group"]}
            found["config"] |= line["run"]["config"]["update"]
        elif line["type"] == "config":
            found["config"] |= line["config"]["update"]
        elif line["type"] == "artifact":
            found["artifacts"][line["artifact"]["name"]] = line["artifact"]
        elif line["type"] == "exit":
            found["exit"] = line["exit"].get("exit_code", 0)
    return found


def logged_table(file: Path, path: str) -> list[dict]:
    values = json.loads((file.parent / "files" / path).read_text())
    return [dict(zip(values["columns"], row, strict=True)) for row in values["data"]]
