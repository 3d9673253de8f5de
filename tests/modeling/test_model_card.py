"""The model card: filled from the record of the training, ours on every save, and never over somebody's own."""

import ast
import re

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image
from transformers.utils import logging

from safevlm_hf import SafeLlavaConfig
from safevlm_hf.evaluation.cards.card import END, START
from safevlm_hf.modeling.model_card import MARKER, create_model_card, is_generated_card, write_model_card


RECORD = {
    "base_model": "llava-hf/llava-1.5-7b-hf",
    "license": "llama2",
    "datasets": ["org/risky-pairs"],
    "machine": "8 x A100",
    "stages": [
        {
            "stage": 1,
            "train_data": "/home/somebody/risky.jsonl",
            "num_records": 14000,
            "clean_share": 0.2,
            "learning_rate": 1e-5,
            "command": "python examples/run_stage1.py --train_file risky.jsonl",
            "metrics": {"level_accuracy": 0.91},
        }
    ],
    "figures": {"attack_success": 0.031, "over_refusal": float("nan")},
}


def test_card_of_a_trained_checkpoint(tiny_config):
    tiny_config.training_record = RECORD
    tiny_config.safety_config.is_trained = True
    card = ModelCard(str(create_model_card(tiny_config, "org/safe")))
    data = card.data.to_dict()
    assert data["library_name"] == "transformers" and data["pipeline_tag"] == "image-text-to-text"
    assert data["license"] == "llama2" and data["base_model"] == RECORD["base_model"]
    assert data["datasets"] == ["org/risky-pairs"]
    (result,) = card.data.eval_results  # what is not a number is no result
    assert (result.metric_type, result.metric_value) == ("attack_success", 0.031)
    assert result.dataset_name == "data held out from risky.jsonl"
    for text in ("# safe", "### Stage 1", "risky.jsonl", "| attack success | 0.031 |", "8 x A100", "2405.13581"):
        assert text in card.text
    assert "/home/somebody" not in card.text and "untrained" not in card.text
    for name in (*tiny_config.safety_config.categories, *tiny_config.safety_config.levels):
        assert f"| {name} |" in card.text


def test_card_of_an_untrained_checkpoint(tiny_config):
    card = create_model_card(tiny_config)
    assert card.data.license == "apache-2.0" and card.data.eval_results is None and card.data.base_model is None
    assert "its verdicts mean nothing" in card.text and "No training is on record" in card.text


@pytest.mark.parametrize("base, license", [("llava-1.5-7b-hf", None), ("nano_base", "apache-2.0")])
def test_a_base_from_a_folder_keeps_its_own_license(tiny_config, base, license):
    tiny_config.training_record = {"base_model": base}
    assert create_model_card(tiny_config).data.license == license


@pytest.mark.parametrize("record", [{}, {"stages": [{}]}, {"stages": None, "figures": None}, {"figures": {"a": "b"}}])
def test_any_part_of_the_record_may_be_missing(tiny_config, record):
    tiny_config.training_record = record
    assert ModelCard(str(create_model_card(tiny_config))).data.eval_results is None


HOSTILE = "\n\n```\n<img src=x onerror=a()> [b](http://c) **d** | `e`\n## Limits\n" + START + END


def test_a_strangers_names_and_record_are_text_and_no_markup(tiny_config):
    name = '<img src=x> [b](http://c) | ``` `e` "}): False, print(1), ({"'
    tiny_config.safety_config.categories = [name, "safe"]
    tiny_config.safety_config.levels = ["safe", name]
    stage = {
        "stage": HOSTILE,
        "train_data": HOSTILE,
        HOSTILE: HOSTILE,
        "command": HOSTILE,
        "metrics": {HOSTILE: HOSTILE},
    }
    texts = ("name", "base_model", "machine", "eval_data")
    tiny_config.training_record = {**dict.fromkeys(texts, HOSTILE), "stages": [stage], "figures": {HOSTILE: HOSTILE}}
    card = ModelCard(str(create_model_card(tiny_config))).text
    fence, outside, inside = "", [], []
    for line in card.splitlines():
        if line.startswith("```") and not fence:
            fence = line.rstrip("abcdefghijklmnopqrstuvwxyz")
        elif line == fence:
            fence = ""
        else:
            (inside if fence else outside).append(line)
    shown = re.sub(r"`[^`]*`", "", re.sub(r"\\.", "", "\n".join(outside)))  # neither escaped nor in code
    assert "<img" not in shown and "[b]" not in shown and "**d**" not in shown
    assert [line for line in outside if line.startswith("#")].count("## Limits") == 1 and "## Limits" not in inside
    assert START not in card and END not in card
    (call,) = [line for line in inside if line.startswith("model.generate(**inputs, safety_policy=")]
    given = ast.parse(call).body[0].value.keywords[1].value
    assert ast.literal_eval(given) == {"categories": {name: False}}


@pytest.mark.parametrize("scope", [None, "", " \n\x00", 7, ["a"]])
def test_without_a_sentence_of_scope_nothing_is_known(tiny_config, scope):
    tiny_config.training_record = {**RECORD, "scope": scope}
    assert "Nothing is known of what it was trained on" in create_model_card(tiny_config).text
    tiny_config.training_record = None
    assert "Nothing is known of what it was trained on" in create_model_card(tiny_config).text


@pytest.mark.parametrize(
    "address",
    ["http://evil.example/a", "HTTPS://evil.example", "www.evil.example", "WwW.evil.example", "a@evil.example"],
)
def test_an_address_in_a_strangers_text_is_no_link(tiny_config, address):
    """Readers make links of addresses without markup, of those whose characters are escaped, too."""
    tiny_config.safety_config.categories = [address, "safe"]
    tiny_config.safety_config.levels = ["safe", address]
    stage = {"stage": address, "train_data": address, address: address, "metrics": {address: 1.0}}
    texts = dict.fromkeys(("name", "machine", "eval_data", "scope"), f"of {address}")
    tiny_config.training_record = {**texts, "stages": [stage], "figures": {address: address}}
    card = ModelCard(str(create_model_card(tiny_config))).text
    outside = re.sub(r"(?s)```.*?```|`[^`]*`", "", card).replace("\\", "")
    assert "evil" in outside and "arxiv.org" in outside
    linked = re.findall(r"(?i)(?:https?://|www\.|\S@)\S+", outside)
    assert linked == ["https://arxiv.org/abs/2405.13581))"]  # our own


def test_marks_that_do_not_print_are_left_out_of_every_field(tiny_config):
    text = "a\u202eb\u200bc\x1b[31md\ud800e"
    stage = {"stage": text, "train_data": text, text: text, "command": text, "metrics": {text: text}}
    texts = dict.fromkeys(("name", "base_model", "machine", "eval_data", "license", "scope"), text)
    record = {**texts, "datasets": [text], "stages": [stage], "figures": {text: 1.0, f"{text}2": text}}
    for kept in (record, {**record, "eval_data": None, "datasets": text}):
        tiny_config.training_record = kept
        card = str(create_model_card(tiny_config, tags=("mine",)))
        assert not [char for char in card if not char.isprintable() and char != "\n"]
        assert not [char for char in ("\\u202e", "\\x1b", "\\e", "\\ud800") if char in card.lower()]


ODD_RECORDS = {
    "figures": [[1], "x", 7],
    "stages": ["abc", [1], 7, [{"metrics": [1]}], {"metrics": {}}],
    "datasets": [7, [1], {"a": "b"}],
    "machine": [[1], {"a": 1}],
    "license": [[1]],
    "base_model": [[1], {"a": 1}, 7],
    "name": [[1]],
    "eval_data": [[1]],
}


@pytest.mark.parametrize("key, value", [(key, value) for key, values in ODD_RECORDS.items() for value in values])
def test_what_is_malformed_in_a_record_is_left_out_with_a_warning(tiny_config, tmp_path, caplog, key, value):
    logging.enable_propagation()
    tiny_config.training_record = {"scope": "drawn cards", key: value}
    tiny_config.save_pretrained(tmp_path)
    (said,) = [line for line in caplog.messages if "training record" in line]
    assert f"leaves out {key} of" in said and "drawn cards" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("value", [10**400, -(10**400), 10**5000, [[1]], None, {"a": 1}, float("inf")], ids=range(7))
def test_figures_of_any_kind_are_shown_as_text(tiny_config, tmp_path, value):
    tiny_config.training_record = {"figures": {"x": value, 1: 0.5}, "stages": [{"a": value, "metrics": {"b": value}}]}
    (result,) = ModelCard(str(create_model_card(tiny_config))).data.eval_results
    assert result.metric_value == 0.5 and "| x |" in create_model_card(tiny_config).text


def test_odd_tags_of_an_older_card_do_not_keep_a_model_from_being_saved(tiny_config, tmp_path):
    (tmp_path / "README.md").write_text(f"---\ntags: [1, mine, [2]]\n---\n{MARKER}\n")
    tiny_config.save_pretrained(tmp_path)
    assert "mine" in ModelCard.load(tmp_path / "README.md").data.tags


def test_the_scope_stays_with_a_checkpoint(tiny_model, tmp_path):
    tiny_model.config.training_record = {**RECORD, "scope": "<b>drawn</b> cards,\nno photographs."}
    tiny_model.extend_categories(["gambling"])
    tiny_model.to(torch.bfloat16).save_pretrained(tmp_path)
    said = "it was trained on &lt;b&gt;drawn&lt;/b&gt; cards, no photographs. Verdicts"
    assert said in (tmp_path / "README.md").read_text()
    config = SafeLlavaConfig.from_base_config(SafeLlavaConfig.from_pretrained(tmp_path))  # as `safevlm init` begins
    assert said in create_model_card(config).text


def test_saving_renews_our_card_and_keeps_somebodys_own(tiny_config, tmp_path):
    path = tmp_path / "README.md"
    tiny_config.save_pretrained(tmp_path)
    assert MARKER in path.read_text() and "attack success" not in path.read_text()
    tiny_config.training_record = RECORD
    tiny_config.save_pretrained(tmp_path)
    assert "attack success" in path.read_text()
    path.write_text("# Mine\n")
    tiny_config.save_pretrained(tmp_path)
    assert path.read_text() == "# Mine\n"
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_card_that_transformers_wrote_gives_way_but_its_tags_stay(tiny_config, tmp_path):
    card = ModelCard.from_template(ModelCardData(tags=["mine"]), model_description="Pushed to the Hub.")
    assert is_generated_card(str(card))
    edited = str(card).replace("[More Information Needed]", "Written by hand.", 1)
    assert not is_generated_card(edited)
    (tmp_path / "README.md").write_text(str(card))
    write_model_card(tmp_path, tiny_config)
    written = ModelCard.load(tmp_path / "README.md")
    assert MARKER in written.text and "mine" in written.data.tags


def test_the_code_in_the_card_runs(nano_model, nano_processor, tmp_path, monkeypatch, capsys):
    nano_model.save_pretrained(tmp_path / "nano")
    nano_processor.save_pretrained(tmp_path / "nano")
    Image.new("RGB", (112, 112), "navy").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    usage, policy = ModelCard.load("nano/README.md").text.split("```python\n")[1:]
    code = (usage.split("```")[0] + policy.split("```")[0]).replace("path/or/repository", "nano")
    exec(code, {})
    assert "SafetyVerdict(" in capsys.readouterr().out
