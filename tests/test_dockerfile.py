"""The Dockerfile, against the package: its steps name what exists, and nothing reaches the image that must not."""

import configparser
import json
import re
import shutil
import subprocess
import sys
import threading
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import typer


ROOT = Path(__file__).parents[1]
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.npz")


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def named(name: str) -> list[str]:
    return [value for instruction, value in instructions() if instruction == name]


def is_sent(path: str) -> bool:
    """Whether a file of the repository reaches Docker: the last pattern that fits it or a folder above it decides."""
    sent, parts = True, path.split("/")
    above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        names = [one.rsplit("/", 1)[-1] for one in above] if "**/" in line else above
        if line and not line.startswith("#") and any(fnmatch(name, pattern) for name in names):
            sent = line.startswith("!")
    return sent


@pytest.fixture(scope="module")
def setup():
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    return config


def test_what_is_copied_is_there_and_is_sent():
    for value in named("COPY"):
        *sources, _ = value.split()
        for source in sources:
            if not value.startswith("--from"):
                assert (ROOT / source).exists() and is_sent(source), source
    assert is_sent("src/safevlm_hf/serving/server.py")


def test_no_weights_no_history_and_no_results_are_sent():
    for path in (".git/HEAD", "runs/demo/stage2/config.json", ".venv/bin/python", "policy.json", "tests/conftest.py"):
        assert not is_sent(path)
    sent = [path.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("*") if path.is_file()]
    sent = [path for path in sent if is_sent(path)]
    assert len(sent) > 100 and not any("__pycache__" in path for path in sent)
    assert not any(fnmatch(path, pattern) for path in sent for pattern in WEIGHTS)


def test_the_packages_files_that_are_needed_to_install_it_are_copied(setup):
    copied = " ".join(named("COPY"))
    long_description = setup["metadata"]["long_description"].removeprefix("file:").strip()
    for name in ("setup.cfg", "pyproject.toml", long_description, setup["metadata"]["license_files"]):
        assert name in copied


def test_pip_installs_an_extra_that_exists(setup):
    extras = [found for value in named("RUN") for found in re.findall(r"'\.\[([\w,]+)\]'", value)]
    assert extras == ["serve"] and "serve" in setup["options.extras_require"]
    for package in ("torch", "torchvision"):
        assert any(value.endswith("torch torchvision") for value in named("RUN"))
        assert package in setup["options"]["install_requires"]


def test_the_python_of_the_image_is_supported(setup):
    oldest = setup["options"]["python_requires"].removeprefix(">=")
    for value in named("FROM"):
        version = re.match(r"python:(3\.\d+)-slim", value)[1]
        assert tuple(map(int, version.split("."))) >= tuple(map(int, oldest.split(".")))


def test_it_does_not_run_as_root():
    names = [name for name, _ in instructions()]
    (user,) = named("USER")
    assert user.isdigit() and int(user) > 0 and f"--uid {user}" in " ".join(named("RUN"))
    last_stage = len(names) - names[::-1].index("FROM")
    assert last_stage < names.index("USER") < names.index("ENTRYPOINT")
    assert "RUN" not in names[names.index("USER") :]


def test_no_secret_is_built_in():
    words = " ".join(value for name, value in instructions() if name in ("ENV", "ARG", "RUN", "ENTRYPOINT", "CMD"))
    assert not re.search("key|token|secret|password", words, re.IGNORECASE)


def test_the_entry_point_is_a_command_that_takes_its_options(setup):
    from safevlm_cli import app

    program, command, *options = [word for name in ("ENTRYPOINT", "CMD") for word in json.loads(named(name)[0])]
    scripts = setup["options.entry_points"]["console_scripts"]
    assert re.search(rf"^{program} = safevlm_cli:main$", scripts, re.MULTILINE)
    context = typer.main.get_command(app).commands[command].make_context(command, options)
    given = context.params
    assert (given["host"], given["model"]) == ("0.0.0.0", "/model")
    assert named("EXPOSE") == [f"{given['port']} {given['metrics_port']}"]
    (check,) = named("HEALTHCHECK")
    assert f"127.0.0.1:{given['port']}/health" in check


@pytest.mark.ci
@pytest.mark.parametrize("status", [200, 503])
def test_the_health_check_asks(status):
    class Health(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *args):
            pass

    program, *words = json.loads(named("HEALTHCHECK")[0].split("CMD")[1])
    assert program == "python"
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        words = [word.replace("8000", str(server.server_port)) for word in words]
        done = subprocess.run([sys.executable, *words], capture_output=True)
        server.shutdown()
    assert (done.returncode == 0) == (status == 200)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("docker") is None, reason="needs Docker")
def test_it_builds_and_starts():
    subprocess.run(["docker", "build", "--quiet", "--tag", "safevlm-serve-test", ROOT], check=True)
    run = ["docker", "run", "--rm", "safevlm-serve-test"]
    assert "--api-key-file" in subprocess.run([*run, "--help"], check=True, capture_output=True, text=True).stdout
    user = ["docker", "run", "--rm", "--entrypoint", "id", "safevlm-serve-test", "--user"]
    assert subprocess.run(user, check=True, capture_output=True, text=True).stdout.strip() == named("USER")[0]
