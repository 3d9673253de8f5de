"""geh, for real, against the server's moderations."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml


pytest.importorskip("guard_eval_harness", reason="needs geh: make test-harness")
pytest.importorskip("uvicorn", reason="needs the extra `serve`")

CONFIG = Path(__file__).parents[2] / "examples" / "geh.yaml"


@contextmanager
def served(checkpoint, *options):
    """The address of `safevlm serve`."""
    words = ["serve", "--model", checkpoint, "--port", "0", "--moderations", *options]
    command = [sys.executable, "-m", "safevlm_hf", *words]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        shown = []
        for line in server.stdout:
            shown.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        assert shown and found, "".join(shown)
        yield found[0]
    finally:
        server.kill()
        server.wait()


def run_geh(tmp_path, url, checkpoint, data):
    config = yaml.safe_load(CONFIG.read_text())
    config["model"]["model_name"] = checkpoint
    config["model"]["args"]["url"] = f"{url}/v1/moderations"
    config["datasets"][0]["path"] = str(data / "geh.jsonl")
    config["output"]["run_dir"] = str(tmp_path / "run")
    path = tmp_path / "geh.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "guard_eval_harness", "run", "--config", str(path)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_geh_takes_the_policys_decision_and_drops_nothing(tmp_path, checkpoint, export):
    """The highest score is over the threshold under both policies, and would flag every picture under both."""
    policy, data = tmp_path / "policy.json", export("vlguard").folder
    policy.write_text(json.dumps({"enabled": False}))
    flagged = {}
    for name, options in (("shipped", ()), ("off", ("--policy", str(policy)))):
        with served(checkpoint, *options) as url:
            folder = tmp_path / name
            folder.mkdir()
            done = run_geh(folder, url, checkpoint, data)
        assert done.returncode == 0, done.stdout + done.stderr
        (predictions,) = (folder / "run").rglob("predictions.jsonl")
        rows = [json.loads(line) for line in predictions.read_text().splitlines()]
        assert len(rows) == 5 and max(rows[0]["category_scores"].values()) > 0.5
        flagged[name] = [row["unsafe_label"] for row in rows]
    assert flagged == {"shipped": [True] * 5, "off": [False] * 5}


def test_a_failed_request_fails_the_run(tmp_path, checkpoint, export):
    data = export("vlguard").folder
    with served(checkpoint) as url:
        done = run_geh(tmp_path, url, "another-model", data)
    assert done.returncode != 0 and "404" in done.stdout + done.stderr
