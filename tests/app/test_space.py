"""The files of the Space: what its front matter says, and what it starts."""

import runpy
from pathlib import Path

import pytest
import yaml


SPACE = Path(__file__).parents[2] / "examples/space"


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
    needed = (SPACE.parents[1] / "setup.cfg").read_text(encoding="utf-8")
    assert f"gradio>={settings['sdk_version'].rpartition('.')[0]}" in needed
    assert "safevlm_hf[app]" in (SPACE / "requirements.txt").read_text(encoding="utf-8").split()
