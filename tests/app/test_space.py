"""The files of the Space: what its front matter says, and what it starts."""

import configparser
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parents[2]
SPACE = ROOT / "examples/space"


def test_the_space_starts_the_page(checkpoint, monkeypatch):
    pytest.importorskip("gradio")
    from safevlm_hf.app import server

    started = []
    monkeypatch.setattr(server, "serve", lambda *loaded, **options: started.append((loaded, options)))
    monkeypatch.setenv("SAFEVLM_MODEL", checkpoint)
    runpy.run_path(str(SPACE / "app.py"))
    ((model, processor), options) = started[0]
    assert model.config.safety_config.is_trained and processor.tokenizer
    assert options == {"name": checkpoint, "host": "0.0.0.0", "port": 7860}


def test_the_front_matter_is_what_a_space_needs():
    _, front, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    settings = yaml.safe_load(front)
    assert settings["sdk"] == "gradio" and (SPACE / settings["app_file"]).is_file()
    assert settings["license"] == "apache-2.0" and len(settings["short_description"]) <= 60
    assert f"gradio>={settings['sdk_version'].rpartition('.')[0]}" in required()


def required():
    lines = (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_the_requirements_are_those_of_the_packages_beside_it():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    needed = settings["options"]["install_requires"].split() + settings["options.extras_require"]["app"].split()
    assert sorted(required()) == sorted(set(needed))


@pytest.mark.ci
def test_the_space_works_from_the_files_that_its_readme_puts_together(checkpoint, tmp_path):
    pytest.importorskip("gradio")
    copied = [line.split() for line in (SPACE / "README.md").read_text().splitlines() if line.startswith("cp -r ")]
    assert [words[2:-1] for words in copied] == [
        ["examples/space"],
        ["src/safevlm_hf", "src/safevlm_cli"],
        ["runs/demo/stage2"],
    ]
    shutil.copytree(SPACE, tmp_path / "space")
    for name in ("safevlm_hf", "safevlm_cli"):
        (tmp_path / "space" / name).symlink_to(ROOT / "src" / name)
    (tmp_path / "space/checkpoint").symlink_to(checkpoint)
    stand_in = "server.serve = lambda *_, **options: print(server.__file__, options)"
    program = f"import runpy; import safevlm_hf.app.server as server; {stand_in}; runpy.run_path('app.py')"
    run = [sys.executable, "-c", program]
    found = subprocess.run(run, cwd=tmp_path / "space", capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(tmp_path)) and "'./checkpoint'" in found.stdout
