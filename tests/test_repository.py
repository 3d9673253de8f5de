"""What surrounds the code: workflows and hooks that only run elsewhere, make's help, the citation, the issue forms."""

import ast
import configparser
import itertools
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)) | {".venv/.installed"}
NOT_OURS = "transformers==5.19.*", "transformers>=5.19,<6"  # what a workflow may install besides


def extras() -> set[str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return set(setup["options.extras_require"])


def load_yaml(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def jobs(path: Path):
    """(job, its values of the matrix); a job without a matrix has one empty set of values."""
    for job in load_yaml(path)["jobs"].values():
        matrix = dict(job.get("strategy", {}).get("matrix", {}))
        added = matrix.pop("include", [])
        values = {name: [*given, *(one[name] for one in added)] for name, given in matrix.items()}
        yield job, values


def commands(path: Path):
    """Every command that a workflow runs, once for each value of the matrix that stands in it."""
    for job, values in jobs(path):
        for step in job["steps"]:
            named = re.findall(r"\$\{\{ matrix\.(\w+) \}\}", step.get("run", ""))
            for value in values[named[0]] if named else [""]:
                yield re.sub(r"\$\{\{ matrix\.\w+ \}\}", value, step.get("run", ""))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_what_exists(path):
    run = [command for command in commands(path) if command]
    for command in run:
        targets = re.findall(r"\bmake ([\w./-]+)", command)
        installed = re.findall(r"pip install '([^']+)'", command)
        assert targets or installed, f"neither make nor pip: {command}"
        assert set(targets) <= TARGETS and set(installed) <= set(NOT_OURS), command
        assert "${{" not in command, f"text from outside stands in a shell: {command}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_only_read_and_use_pinned_actions(path):
    workflow = load_yaml(path)
    events = workflow[True]  # YAML 1.1 reads the key `on` as a truth value
    assert workflow["permissions"] == {"contents": "read"} and "pull_request_target" not in events
    for name, job in workflow["jobs"].items():
        assert job.get("permissions", {}) == ({"id-token": "write"} if name == "publish" else {})
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            assert "uses" not in step or re.search(r"^actions/.+@v\d+$|@[0-9a-f]{40}$", step["uses"]), step


def test_newer_actions_are_proposed_and_a_newer_push_ends_the_checks_of_the_last():
    (update,) = load_yaml(ROOT / ".github" / "dependabot.yml")["updates"]
    assert update["package-ecosystem"] == "github-actions" and update["schedule"]
    for name in ("checks", "tests"):
        concurrency = load_yaml(ROOT / ".github" / "workflows" / f"{name}.yml")["concurrency"]
        assert concurrency == {"group": f"{name}-${{{{ github.ref }}}}", "cancel-in-progress": True}


def test_tests_run_on_both_ends_of_what_is_supported():
    _, values = next(jobs(ROOT / ".github" / "workflows" / "tests.yml"))
    assert set(values["python"]) == {"3.10", "3.11", "3.12", "3.13"}
    required = re.search(r"^    (transformers>=([\d.]+),<\d+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert set(values["transformers"]) == {required[1], f"transformers=={required[2]}.*"}


def test_each_test_that_is_not_slow_runs_once_in_the_checks():
    tiers = [re.search(rf'^{name}: .*\n\t.+ -m "(.+)"$', MAKEFILE, re.MULTILINE)[1] for name in ("test", "test-ci")]
    for ci, slow in itertools.product((False, True), repeat=2):
        assert sum(eval(tier, {"ci": ci, "slow": slow}) for tier in tiers) == (not slow)
    run = re.findall("^make (.+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert " ".join(run).split() == ["test", "test-ci", "lint", "types", "docs"]
    steps = commands(ROOT / ".github" / "workflows" / "tests.yml")
    assert {"make test", "make test-ci", "make test-quantization"} <= set(steps)


def test_slow_tests_and_the_wheel_run_weekly_or_before_a_release():
    run = {path.stem: list(commands(path)) for path in WORKFLOWS}
    assert "schedule" in load_yaml(ROOT / ".github" / "workflows" / "weekly.yml")[True]
    assert "make test-all" in run["weekly"] and {"make test-all", "make test-wheel"} <= set(run["release"])
    assert "make test-wheel" in run["checks"] and "make test-pillow" in run["tests"]


@pytest.mark.parametrize(
    "page, file, first, said",
    [
        ("README.md", "first.py", "from safevlm_hf.data import NANO_SAFE", "post_process_safety(outputs)"),
        ("docs/start.md", "demo.py", "import safevlm_hf\n", 'pipeline("image-text-to-text", "runs/demo/stage2")'),
    ],
)
def test_the_trial_of_the_wheel_asks_what_the_documents_ask_first(page, file, first, said):
    script = ROOT / ".ci" / "try_wheel"
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    (command,) = re.findall(rf"^awk .+{page}\"(?= > {file})", script.read_text(), re.MULTILINE)
    environment = {**os.environ, "root": str(ROOT)}
    lines = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=True).stdout
    assert lines.startswith(first) and said in lines
    compile(lines, page, "exec")


def test_hooks_and_checks_use_one_ruff():
    hooks = load_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    assert f"    ruff=={hooks[0]['rev'].removeprefix('v')}\n" in (ROOT / "setup.cfg").read_text()
    assert hooks[1]["hooks"][0]["entry"].split() == ["make", "types"] and "types" in TARGETS


def test_make_help_says_what_each_target_does():
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert (
        set(lines) == TARGETS - {".venv/.installed"} == set(re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.M)[1].split())
    )
    assert all(text.endswith((".", "`.")) for text in lines.values())


def test_the_extras_that_makefile_and_documents_name_exist():
    texts = [MAKEFILE, *(path.read_text() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])]
    named = {names for text in texts for names in re.findall(r"(?:safevlm_hf|'\.)\[([\w,-]+)\]", text)}
    named = {name for names in named for name in names.split(",")}
    assert {"dev", "serve", "quantization"} <= named <= extras()


def test_no_document_installs_the_package_by_a_name_that_is_on_no_index():
    paths = [ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.ipynb")]
    found = [line for path in paths for line in re.findall(r"pip install[^`\n]*\bsafevlm_hf\b.*", path.read_text())]
    assert len(paths) > 10 and found == []


def test_the_citation_has_the_version():
    version = re.search('__version__ = "(.+)"', (ROOT / "src" / "safevlm_hf" / "version.py").read_text())[1]
    citation = load_yaml(ROOT / "CITATION.cff")
    assert citation["version"] == version and citation["license"] == "Apache-2.0"
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    make = ["make", "--silent", "check-tag"]
    assert subprocess.run([*make, f"TAG=v{version}"], cwd=ROOT).returncode == 0
    assert subprocess.run([*make, f"TAG=v{version}1"], cwd=ROOT, capture_output=True).returncode != 0


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_issue_forms_are_complete(path):
    form = load_yaml(path)
    if path.stem == "config":
        assert form == {"blank_issues_enabled": False}
        return
    assert form["name"] and form["description"] and form["body"]
    for field in form["body"]:
        assert field["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"].get("label") or field["type"] == "markdown"


def test_what_another_file_calls_has_a_public_name():
    """In the model and in what serves it; the library's own names, as `_prepare_generation_config`, do not count."""
    files = [path for name in ("modeling", "serving", "vllm") for path in ROOT.glob(f"src/safevlm_hf/{name}/*.py")]
    nodes = {path: list(ast.walk(ast.parse(path.read_text()))) for path in files}
    own = {path: {node.name for node in nodes[path] if isinstance(node, ast.FunctionDef)} for path in files}
    private = {name for names in own.values() for name in names if re.match("_[^_]", name)}
    read, foreign = {}, []
    for path in files:
        attributes = [node for node in nodes[path] if isinstance(node, ast.Attribute)]
        own[path] |= {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}
        read[path] = [node for node in attributes if node.attr in private]
        foreign += [f"{path.name}: {ast.unparse(node)}" for node in read[path] if node.attr not in own[path]]
    assert sum(map(len, read.values())) > 100 and not foreign
