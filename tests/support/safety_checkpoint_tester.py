"""What every family must show of its checkpoints: how they begin, load, train, are served, and what is put on them."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from safevlm_cli import app
from safevlm_hf import SafetyPolicy
from safevlm_hf.checkpoints.loading import load
from safevlm_hf.training.arguments import LoraArguments
from safevlm_hf.training.collator import SafetyCollator
from safevlm_hf.training.run import run_stage1, run_stage2
from safevlm_hf.training.stages import prepare_stage1, prepare_stage2

from .quantisers import QUANTISERS
from .tiny_backbones import NEW_TOKENS, REFUSE_ALL, picture


TRAINING = {
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 0,
    "report_to": "none",
    "disable_tqdm": "true",
}


LOAD_REMOTELY = """
import os, sys
sys.modules["safevlm_hf"] = None  # importing it fails, installed or not
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
folder, *names = sys.argv[1:]
for auto in (AutoConfig, AutoProcessor):
    if not os.fork():  # alone, before another class has brought any code
        part = auto.from_pretrained(f"{folder}/checkpoint", trust_remote_code=True)
        part.save_pretrained(f"{folder}/{auto.__name__}")
        os._exit(0)
    assert os.wait()[1] == 0
answer = torch.load(f"{folder}/answer.pt", weights_only=False)
for number in range(2):
    checkpoint = f"{folder}/again" if number else f"{folder}/checkpoint"
    autos = AutoModel, AutoModelForImageTextToText, AutoProcessor
    parts = [auto.from_pretrained(checkpoint, trust_remote_code=True) for auto in autos]
    assert [type(part).__name__ for part in parts] == names
    assert all(type(part).__module__.startswith("transformers_modules") for part in parts)
    model, _, processor = parts
    found = model.generate(**answer["inputs"], max_new_tokens=6, do_sample=False)
    assert torch.equal(found, answer["expected"])
    model.save_pretrained(f"{folder}/again")
    processor.save_pretrained(f"{folder}/again")
"""


class SafetyCheckpointTester:
    """A part of `SafetyModelTester`."""

    # Starts of keys, as the modules have them and as the checkpoints on the Hub do; empty where both are alike.
    old_layout: tuple[tuple[str, str], ...] = ()

    # -- the Auto classes, with and without the package ------------------------------------------------------------

    def test_found_by_the_auto_classes(self, model, processor, checkpoint, own_tokenizer):
        assert self.config_class.model_type == f"safe_{self.stock_config(own_tokenizer).model_type}"
        assert type(AutoConfig.from_pretrained(checkpoint)) is self.config_class
        loaded = AutoModel.from_pretrained(checkpoint)
        assert type(loaded) is self.model_class
        assert type(AutoModelForImageTextToText.from_pretrained(checkpoint)) is self.model_class
        own = AutoProcessor.from_pretrained(checkpoint)
        assert type(own) is self.processor_class
        inputs = self.prepare(own, self.conversations())
        for name, value in self.prepare(processor, self.conversations()).items():
            assert torch.equal(value, inputs[name]), name
        assert torch.equal(self.answer(loaded, inputs).sequences, self.answer(model, inputs).sequences)

    @pytest.mark.slow
    def test_loads_without_the_package(self, model, processor, tmp_path):
        """By the code beside the weights, in a process that has no package; saved from there it loads again."""
        model.save_pretrained(tmp_path / "checkpoint")
        processor.save_pretrained(tmp_path / "checkpoint")
        inputs = dict(self.prepare(processor, self.conversations()))
        expected = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        torch.save({"inputs": inputs, "expected": expected}, tmp_path / "answer.pt")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_MODULES")}
        names = [one.__name__ for one in (self.model_class, self.model_class, self.processor_class)]
        command = [sys.executable, "-c", LOAD_REMOTELY, str(tmp_path), *names]
        modules = {"HF_MODULES_CACHE": str(tmp_path / "modules")}
        done = subprocess.run(command, env=environment | modules, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        code = code_of(tmp_path / "checkpoint")
        assert f"{self.config_class.model_type}.py" in code and "modeling_safety.py" in code
        for saved in ("again", "AutoConfig", "AutoProcessor"):
            assert code_of(tmp_path / saved) == code, saved
        for saved, file in (("AutoConfig", "config.json"), ("AutoProcessor", "processor_config.json")):
            first, second = (json.loads((tmp_path / one / file).read_text()) for one in ("checkpoint", saved))
            assert second["auto_map"] == first["auto_map"] and second.keys() == first.keys()

    @pytest.mark.parametrize("part", ["safety", "backbone"])
    def test_no_checkpoint_that_lacks_weights_is_loaded(self, checkpoint, tmp_path, part):
        shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
        weights = load_file(tmp_path / "model.safetensors")
        lost = next(key for key in weights if ("safety_head" in key) == (part == "safety"))
        del weights[lost]
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        # Keys of a checkpoint may begin otherwise than the modules do.
        name = "model.safety_head" if part == "safety" else ".".join(lost.split(".")[-2:])
        match = f"no weights that fit for {name}:" if part == "safety" else f"no weights for .*{name} of its backbone"
        with pytest.raises(ValueError, match=match):
            AutoModel.from_pretrained(tmp_path)

    # -- the stock checkpoint --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("layout", ["new", "old", "tied"])
    def test_init_keeps_every_weight(self, own_tokenizer, tmp_path, layout):
        if layout == "old" and not self.old_layout:
            pytest.skip("the checkpoints on the Hub have the modules' own keys")
        renamed = self.old_layout if layout == "old" else ()
        stock = self.save_stock(own_tokenizer, tmp_path / "stock", renamed, is_tied=layout == "tied")
        init(tmp_path / "stock", tmp_path / "safe")
        model, processor = (auto.from_pretrained(tmp_path / "safe") for auto in (AutoModel, AutoProcessor))
        assert (type(model), type(processor)) == (self.model_class, self.processor_class)
        assert (model.lm_head.weight is model.get_input_embeddings().weight) == (layout == "tied")
        ours = model.state_dict()
        assert {name for name in ours if "safety_" not in name} == set(stock.state_dict())
        for name, weight in stock.state_dict().items():
            assert ours[name].dtype == weight.dtype and torch.equal(ours[name], weight), name
        model.assess(**self.prepare(processor, self.conversations()).to(torch.bfloat16))

    def test_init_takes_no_checkpoint_that_lacks_weights(self, own_tokenizer, tmp_path):
        self.save_stock(own_tokenizer, tmp_path / "stock", [("model.", "unheard_of.")])  # as a newer layout's
        with pytest.raises(ValueError, match="no weights for .* of its backbone"):
            init(tmp_path / "stock", tmp_path / "safe")
        assert not (tmp_path / "safe").exists()

    def test_init_takes_no_weight_that_it_would_round(self, own_tokenizer, tmp_path):
        self.save_stock(own_tokenizer, tmp_path / "stock", self.old_layout)
        file = min((tmp_path / "stock").glob("*.safetensors"))
        weights = load_file(file)
        name = min(weights)
        save_file({**weights, name: weights[name].float() + 1e-5}, file, {"format": "pt"})
        with pytest.raises(ValueError, match=f"{name} in float32, and the model is bfloat16"):
            init(tmp_path / "stock", tmp_path / "safe")
        assert not (tmp_path / "safe").exists()

    def save_stock(self, tokenizer, folder, renamed, is_tied: bool = False):
        """A stock checkpoint in several files, in half precision as on the Hub, under the keys of a layout."""
        config = self.stock_config(tokenizer)
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = is_tied
        stock = self.stock_class(config).to(torch.bfloat16).eval()
        stock.save_pretrained(folder, max_shard_size="100KB", save_original_format=False)
        stock_processor = next(
            base for base in self.processor_class.__mro__ if "transformers.models." in base.__module__
        )
        stock_processor(**self.processor_parts(tokenizer)).save_pretrained(folder)
        rename_keys(folder, renamed)
        return stock

    # -- training --------------------------------------------------------------------------------------------------

    def test_both_stages_train_what_they_should(self, own_tokenizer, processor, tmp_path):
        """Stage 1 the safety modules alone; stage 2 the language model alone, and no verdict changes."""
        model = self.make_model(own_tokenizer)
        batch = SafetyCollator(processor, model.config.safety_config)(self.records(tmp_path))
        assert (batch["labels"] != -100).any(dim=1).all()
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        take_a_step(prepare_stage1(model), batch)
        changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
        assert changed and all(name.startswith("model.safety_") for name in changed)
        prompt = self.prepare(processor, self.conversations())
        verdicts, answers = model.eval().assess(**prompt), model(**prompt).logits
        tuned = prepare_stage2(model, LoraArguments(lora_r=2, lora_dropout=0.0))
        take_a_step(tuned, batch)
        after = tuned.eval().get_base_model().assess(**prompt)
        assert torch.equal(after.safety_level_logits, verdicts.safety_level_logits)
        assert not torch.equal(tuned(**prompt).logits, answers)

    @pytest.mark.ci
    def test_both_stages_run_and_resume(self, own_tokenizer, tmp_path):
        """Begun on a stock checkpoint, and cut off after a step: the result is that of a run in one go."""
        self.save_stock(own_tokenizer, tmp_path / "stock", self.old_layout)
        records = tmp_path / "records.jsonl"
        lines = [{name: value for name, value in one.items() if value != -100} for one in self.records(tmp_path)]
        records.write_text("".join(json.dumps(line) + "\n" for line in lines))
        sizes = {"num_safety_tokens": 3, "num_condition_tokens": 2, "projector_depth": 1}
        for run, base, own in ((run_stage1, "stock", sizes), (run_stage2, "run_stage1", {"lora_r": 2})):
            folder = tmp_path / run.__name__
            values = {**TRAINING, **own, "train_file": records, "output_dir": folder}
            values["model_name_or_path"] = tmp_path / base
            run(flags(**values))
            expected = AutoModel.from_pretrained(folder).state_dict()
            shutil.rmtree(folder / "checkpoint-2")
            begun = (folder / "checkpoint-1" / "trainer_state.json").stat().st_mtime_ns
            assert run(flags(**values, resume_from_checkpoint="true")).state.global_step == 2
            assert (folder / "checkpoint-1" / "trainer_state.json").stat().st_mtime_ns == begun  # not begun again
            resumed = AutoModel.from_pretrained(folder).state_dict()
            for name, weight in expected.items():
                assert torch.equal(resumed[name], weight), name

    def records(self, folder) -> list[dict]:
        paths = []
        for seed, size in enumerate(self.sizes):
            paths.append(str(folder / f"{seed}.png"))
            picture(size, seed).save(paths[-1])
        return [
            self.record("What is this?", "It is a card.", paths[:1], 2, 1),
            self.record("Which colours are these cards?", "One is red and one is blue.", paths[1:], 0, 6),
            self.record("What is two plus two?", "It is four.", [], -100, -100),
        ]

    def record(self, question: str, answer: str, images: list[str], level: int, category: int) -> dict:
        shown = [{"type": "image", "text": None}] * len(images)
        return {
            "messages": [
                {"role": "user", "content": [*shown, {"type": "text", "text": question}]},
                {"role": "assistant", "content": [{"type": "text", "text": answer}]},
            ],
            "images": images,
            "safety_level": level,
            "safety_category": category,
            "source": f"records.jsonl:{len(images)}",
        }

    # -- adapters, quantisers --------------------------------------------------------------------------------------

    def test_an_adapter_leaves_the_verdict(self, own_tokenizer, processor):
        peft = pytest.importorskip("peft", reason="peft is not installed")
        model = self.make_model(own_tokenizer)
        inputs = self.prepare(processor, self.conversations())
        verdicts, answers = model.assess(**inputs), self.answer(model, inputs)
        config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        tuned = peft.get_peft_model(model, config).eval()
        found = self.answer(tuned, inputs)
        assert torch.equal(found.safety_level_logits, verdicts.safety_level_logits)
        assert torch.equal(found.safety_category_logits, verdicts.safety_category_logits)
        assert not torch.allclose(found.logits[0], answers.logits[0], atol=1e-3)
        merged = self.answer(tuned.merge_and_unload(), inputs)
        assert torch.equal(merged.safety_level_logits, verdicts.safety_level_logits)
        assert torch.equal(merged.safety_category_logits, verdicts.safety_category_logits)
        torch.testing.assert_close(merged.logits[0], found.logits[0], atol=1e-4, rtol=0)

    def test_4_bits_leave_the_verdict(self, processor, checkpoint, tmp_path):
        config = QUANTISERS["bitsandbytes 4 bit"]()
        quantised = self.model_class.from_pretrained(checkpoint, quantization_config=config).eval()
        linear = [module for module in quantised.model.get_decoder().modules() if isinstance(module, torch.nn.Linear)]
        assert linear and all(type(module.weight) is not torch.nn.Parameter for module in linear)
        quantised.save_pretrained(tmp_path / "fresh")
        inputs = self.prepare(processor, self.conversations())
        # Loaded as the quantised one was: on some processors equal weights at another address differ in the last bit.
        loaded = self.model_class.from_pretrained(checkpoint).eval()
        found, expected = self.answer(quantised, inputs), self.answer(loaded, inputs)
        assert torch.equal(found.safety_level_logits, expected.safety_level_logits)
        assert torch.equal(found.safety_category_logits, expected.safety_category_logits)
        assert not torch.allclose(found.logits[0].float(), expected.logits[0], atol=1e-3)
        quantised.save_pretrained(tmp_path / "used")
        spared = {name: weight for name, weight in loaded.state_dict().items() if "safety_" in name}
        assert spared
        for folder in ("fresh", "used"):
            again = self.model_class.from_pretrained(tmp_path / folder).eval()
            weights = again.state_dict()
            assert all(torch.equal(weights[name], weight) for name, weight in spared.items())
            answer = self.answer(again, inputs)
            for name in ("safety_level_logits", "safety_category_logits"):
                torch.testing.assert_close(answer[name], found[name], rtol=0, atol=1e-5)
            if folder == "fresh":  # docs/deployment.md says what bitsandbytes makes of weights that have answered
                torch.testing.assert_close(answer.logits[0], found.logits[0], rtol=0, atol=1e-3)

    # -- the server ------------------------------------------------------------------------------------------------

    def test_serve(self, checkpoint):
        """What `safevlm serve` loads, behind its app."""
        serving = pytest.importorskip("safevlm_hf.serving", reason="needs the extra `serve`")
        testclient = pytest.importorskip("fastapi.testclient", reason="needs the extra `serve`")
        with verbosity_kept():
            model, processor = load(str(checkpoint))
        images = [picture(size, seed) for seed, size in enumerate(self.sizes)]
        shown = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]

        def expected(*images) -> str:
            inputs = self.prepare(processor, [[self.says(images, "Read it.")]])
            answer = self.answer(model, inputs, min_new_tokens=None).sequences[0, inputs["input_ids"].shape[1] :]
            return processor.decode(answer, skip_special_tokens=True).strip()

        def ask(client, *parts, **fields):
            message = {"role": "user", "content": [*parts, {"type": "text", "text": "Read it."}]}
            body = {"messages": [message], "max_tokens": NEW_TOKENS, **fields}
            response = client.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, response.text
            return streamed(response) if fields else response.json()["choices"][0]["message"]["content"].strip()

        with testclient.TestClient(serving.create_app(model, processor, "tiny")) as client:
            for number in (1, 3):
                text = expected(*images[:number])
                assert ask(client, *shown[:number]) == text
                # The library's streams keep back a character that is not complete.
                assert ask(client, *shown[:number], stream=True) == text.rstrip("\N{REPLACEMENT CHARACTER}").strip()
        app = serving.create_app(model, processor, "tiny", policy=REFUSE_ALL, moderations=True)
        with testclient.TestClient(app) as client:
            refusal = SafetyPolicy.create(REFUSE_ALL).refusal(None)
            assert refusal.startswith(ask(client, shown[0])) and not refusal.startswith(ask(client))
            assert refusal.startswith(ask(client, *shown, stream=True)) and not refusal.startswith(ask(client))
            response = client.post("/v1/moderations", json={"input": shown[:1]})
            assert response.json()["results"][0]["action"] == "refuse"


def flags(**values) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def streamed(response) -> str:
    """What the events of a stream say together."""
    *events, end = (line.removeprefix("data: ") for line in response.text.split("\n\n") if line)
    assert end == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events).strip()


def code_of(folder) -> dict[str, bytes]:
    """The code files in a folder."""
    return {file.name: file.read_bytes() for file in folder.glob("*.py")}


def take_a_step(model, batch: dict):
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    model.train()(**batch).loss.backward()
    optimizer.step()


@contextmanager
def verbosity_kept():
    """Commands silence the library for their process."""
    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


def init(base, output):
    """`safevlm init BASE OUTPUT`."""
    sizes = ["--num-safety-tokens", "3", "--num-condition-tokens", "2"]
    with verbosity_kept():
        app(["init", str(base), str(output), *sizes], standalone_mode=False)


def rename_keys(folder, renamed):
    """Give the weights of a checkpoint in several files other keys; each by the first start that fits."""
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 1
    weight_map = {}
    for file in files:
        weights = {}
        for key, weight in load_file(file).items():
            start, other = next((pair for pair in renamed if key.startswith(pair[0])), ("", ""))
            weights[other + key.removeprefix(start)] = weight
        save_file(weights, file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(weights, file.name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "weight_map": weight_map}))
