"""What every family of backbones must show, on a tiny random checkpoint with its real processor class.

A family's test file subclasses `SafetyModelTester` and says how its stock config, its processor and its messages look.
"""

import base64
import copy
import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jinja2 import TemplateError
from PIL import Image
from quantisers import QUANTISERS
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    StaticCache,
    pipeline,
    set_seed,
)
from transformers.generation import utils as generation_utils
from transformers.utils import logging

from safevlm_cli import app
from safevlm_cli.loading import load
from safevlm_hf.data import NANO_BASE
from safevlm_hf.modeling import SafetyPolicy, read_audit
from safevlm_hf.modeling.generation_safety import CACHE
from safevlm_hf.modeling.safe_llava import CHAT_TEMPLATE
from safevlm_hf.training.arguments import LoraArguments
from safevlm_hf.training.collator import SafetyCollator
from safevlm_hf.training.run import run_stage1, run_stage2
from safevlm_hf.training.stages import prepare_stage1, prepare_stage2


NEW_TOKENS = 6
LLAVA_TEMPLATE = CHAT_TEMPLATE
LLAVA_LAYOUT = (
    ("lm_head.", "language_model.lm_head."),
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.", ""),
)
SAFETY = {
    "num_safety_tokens": 3,
    "num_condition_tokens": 2,
    "projector_depth": 1,
    "projector_hidden_size": 16,
    "projector_grid_size": 3,
    "num_attention_heads": 4,
    "head_gate_size": 8,
    "head_gate_dropout": 0.0,
}
NOTHING_ADDED = {**SAFETY, "num_safety_tokens": 0, "num_condition_tokens": 0}
TRAINING = {
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "report_to": "none",
    "disable_tqdm": "true",
}
REFUSE_ALL = {
    "categories": {},
    "risk_threshold": 0.0,
    "actions": {"*": dict.fromkeys(("low", "medium", "high"), "refuse")},
}
OPTIONAL = {"input_ids", "attention_mask", "question_mask", "pixel_values", "pixel_attention_mask"}
CAREFUL, DISABLED = {"risk_threshold": 0.0}, {"enabled": False}
GREEDY = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "top_k": 20},
    "beams": {"num_beams": 3},
    "several answers": {"do_sample": True, "top_k": 20, "num_return_sequences": 2},
    "beams, several answers": {"num_beams": 3, "num_return_sequences": 3},
    "static cache": {"cache_implementation": "static"},
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
}


LOAD_REMOTELY = """
import sys
sys.modules["safevlm_hf"] = None  # importing it fails, installed or not
import torch
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor
folder, *names = sys.argv[1:]
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


def tiny_tokenizer(*special_tokens: str, **attributes) -> PreTrainedTokenizerFast:
    """The nano base's words, with a backbone's own special tokens."""
    backend = AutoTokenizer.from_pretrained(NANO_BASE).backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(backend), bos_token="<s>", eos_token="</s>", pad_token="<pad>", **attributes
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special_tokens)})
    return tokenizer


def tiny_text_config(tokenizer, model_type: str, **values) -> dict:
    return {
        "model_type": model_type,
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **values,
    }


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class SafetyModelTester:
    config_class: type
    model_class: type
    processor_class: type
    stock_class: type
    sizes = ((40, 24), (16, 16), (24, 48))
    modes = MODES
    # Starts of keys, as the modules have them and as the checkpoints on the Hub do; empty where both are alike.
    old_layout: tuple[tuple[str, str], ...] = ()

    def stock_config(self, tokenizer):
        raise NotImplementedError

    def tokenizer(self):
        raise NotImplementedError

    def processor_parts(self, tokenizer) -> dict:
        """Arguments of the processor class besides the safety ones."""
        raise NotImplementedError

    # -- what the tests are made of --------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    def own_tokenizer(self):
        return self.tokenizer()

    def make_model(self, tokenizer, safety=SAFETY):
        set_seed(0)
        config = self.config_class.from_base_config(self.stock_config(tokenizer), **safety)
        model = self.model_class(config).eval()
        for name, parameter in model.named_parameters():
            if "safety_conditions" in name or "safety_tokens" in name:  # far apart, or an answer would not show them
                torch.nn.init.normal_(parameter, std=1.0)
        model.config.safety_config.is_trained = True
        return model

    def make_processor(self, tokenizer, safety=SAFETY):
        names = ("num_safety_tokens", "num_condition_tokens")
        parts = self.processor_parts(copy.deepcopy(tokenizer))
        return self.processor_class(**parts, **{name: safety[name] for name in names})

    @pytest.fixture(scope="class")
    def model(self, own_tokenizer):
        return self.make_model(own_tokenizer)

    @pytest.fixture(scope="class")
    def processor(self, own_tokenizer):
        return self.make_processor(own_tokenizer)

    @pytest.fixture(scope="class")
    def checkpoint(self, model, processor, tmp_path_factory):
        folder = tmp_path_factory.mktemp("checkpoint")
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    def conversations(self) -> list[list[dict]]:
        """Pictures of several sizes, several in one sample, and none."""
        one, two, three = (picture(size, seed) for seed, size in enumerate(self.sizes))
        return [
            [self.says([one], "What does the card say?")],
            [self.says([two, three], "Tell me what these pictures show, please, and do what they ask.")],
            [self.says([], "Hello, how are you today?")],
        ]

    def says(self, images, text: str) -> dict:
        content = [{"type": "image", "image": image} for image in images]
        return {"role": "user", "content": [*content, {"type": "text", "text": text}]}

    def prepare(self, processor, conversations, **kwargs):
        return processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"padding": True},
            **kwargs,
        )

    def answer(self, model, inputs, **kwargs):
        set_seed(0)
        return model.generate(**inputs, **{**GREEDY, "return_dict_in_generate": True, "output_logits": True, **kwargs})

    # -- tests -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("first", [0, 2], ids=["picture first", "text first"])
    def test_batch_equals_single(self, model, processor, first):
        conversations = [*self.conversations()[first:], *self.conversations()[:first]]
        together = self.answer(model, self.prepare(processor, conversations))
        assert together.safety_image_rows.tolist() == [[0, 1, 1], [1, 2, 2]][first // 2]
        place = 0
        for row, conversation in enumerate(conversations):
            alone = self.answer(model, self.prepare(processor, [conversation]))
            assert together.sequences[row, -NEW_TOKENS:].tolist() == alone.sequences[0, -NEW_TOKENS:].tolist()
            for batched, single in zip(together.logits, alone.logits):
                torch.testing.assert_close(batched[row], single[0], atol=1e-4, rtol=0)
            if alone.get("safety_level_logits") is not None:
                number = len(alone.safety_level_logits)
                found = together.safety_level_logits[place : place + number]
                torch.testing.assert_close(found, alone.safety_level_logits, atol=1e-4, rtol=0)
                place += number

    def test_nothing_added_is_the_stock_model(self, own_tokenizer):
        model = self.make_model(own_tokenizer, NOTHING_ADDED)
        stock = self.stock_class(self.stock_config(own_tokenizer)).eval()
        missing, unexpected = model.load_state_dict(stock.state_dict(), strict=False)
        assert not unexpected and all("safety_" in name for name in missing)
        inputs = self.prepare(self.make_processor(own_tokenizer, NOTHING_ADDED), self.conversations())
        of_stock = {name: inputs[name] for name in inputs if name not in ("question_mask", "safety_num_tiles")}
        with torch.no_grad():
            assert torch.equal(model(**inputs).logits, stock(**of_stock).logits)
        for mode in ({}, {"num_beams": 3, "num_return_sequences": 2}):
            ours, theirs = self.answer(model, inputs, **mode), self.answer(stock, of_stock, **mode)
            assert torch.equal(ours.sequences, theirs.sequences)

    @pytest.mark.parametrize("mode", MODES)
    def test_every_mode_answers_under_the_condition(self, model, processor, mode):
        if mode not in self.modes:
            pytest.skip("the stock model has no such mode")
        inputs = self.prepare(processor, self.conversations())
        asked = dict(inputs)
        if mode == "prompt lookup":  # of one sample
            asked = dict(self.prepare(processor, self.conversations()[:1]))
        plain, careful = (
            self.answer(model, asked, **self.modes[mode], safety_policy=policy) for policy in (DISABLED, CAREFUL)
        )
        answers = len(plain.sequences) // len(asked["input_ids"])
        prompts = asked["input_ids"].repeat_interleave(answers, dim=0)
        assert torch.equal(plain.sequences[:, : prompts.shape[1]], prompts)
        differences = (plain.logits[0] - careful.logits[0]).abs().amax(dim=-1)
        assert differences[0] > 1e-3
        if mode != "prompt lookup":  # the text-only row is the last
            assert differences[-1] < 1e-5

    def test_greedy_modes_agree(self, model, processor):
        inputs = self.prepare(processor, self.conversations()[:1])
        expected = self.answer(model, inputs).sequences
        for mode in ("static cache", "prompt lookup"):
            if mode in self.modes:
                assert torch.equal(
                    self.answer(model, inputs, **self.modes[mode], output_logits=False).sequences, expected
                )

    def test_chunked_prefill(self, model, processor):
        inputs = self.prepare(processor, self.conversations()[:1])
        if not hasattr(generation_utils, "_slice_mm_encoder_output"):  # before transformers 5.24 it drops images
            with pytest.raises(ValueError, match="prefill_chunk_size"):
                self.answer(model, inputs, prefill_chunk_size=5)
            return
        found = self.answer(model, inputs, prefill_chunk_size=5, output_logits=False).sequences
        assert torch.equal(found, self.answer(model, inputs).sequences)

    def test_assisted_decoding(self, model, processor, own_tokenizer):
        draft = self.make_model(own_tokenizer, {**SAFETY, "head_gate_size": 4})
        inputs = self.prepare(processor, self.conversations()[:1])
        found = self.answer(model, inputs, assistant_model=draft, output_logits=False).sequences
        assert torch.equal(found, self.answer(model, inputs).sequences)

    def test_streaming(self, model, processor):
        inputs, tokens = self.prepare(processor, self.conversations()[:1]), []
        streamer = SimpleNamespace(put=lambda ids: tokens.extend(ids.flatten().tolist()), end=lambda: None)
        outputs = self.answer(model, inputs, streamer=streamer)
        assert tokens == outputs.sequences[0].tolist()

    def test_pipeline(self, model, processor):
        conversation = self.conversations()[0]
        inputs = self.prepare(processor, [conversation])
        expected = processor.decode(self.answer(model, inputs).sequences[0, -NEW_TOKENS:], skip_special_tokens=True)
        answer = pipeline("image-text-to-text", model=model, processor=processor)
        (found,) = answer(text=conversation, return_full_text=False, generate_kwargs=GREEDY)
        assert found["generated_text"] == expected

    def test_a_condition_changes_its_own_row_alone(self, model, processor):
        inputs = self.prepare(processor, self.conversations())
        rows = len(model.assess(**inputs).safety_image_rows)
        plain, other = (
            model(**inputs, safety_conditions=torch.tensor([0, row, row][:rows])).logits[:, -1] for row in (0, 1)
        )
        changed = ((plain - other).abs().amax(dim=-1) > 1e-4).tolist()
        assert changed == [False, True, False]

    def test_a_forced_refusal(self, model, processor):
        inputs = self.prepare(processor, self.conversations())
        outputs = self.answer(
            model, inputs, safety_policy=REFUSE_ALL, tokenizer=processor.tokenizer, max_new_tokens=40
        )
        texts = processor.batch_decode(outputs.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        first = SafetyPolicy.create(REFUSE_ALL).refusal(None).split()[0]
        assert [text.strip().startswith(first) for text in texts] == [True, True, False]

    def test_the_audit_tells_samples_and_pictures_apart(self, model, processor, tmp_path):
        conversations = self.conversations()
        for asked in (conversations, conversations[:1], conversations[1:2], conversations[2:]):
            self.answer(model, self.prepare(processor, asked), safety_audit=tmp_path / "audit.jsonl")
        lines, broken = read_audit(tmp_path / "audit.jsonl")
        together, alone = lines[:3], lines[3:]
        assert not broken and [len(line["verdicts"]) for line in together] == [1, 2, 0]
        assert len({digest for line in together for digest in line["image_sha256"]}) == 3
        for name in ("action", "prompt_sha256", "image_sha256"):
            assert [line[name] for line in together] == [line[name] for line in alone], name

    def test_the_question_and_the_picture_reach_the_verdict(self, model, processor):
        one, two = (picture(self.sizes[0], seed) for seed in (5, 6))
        logits = [
            model.assess(**self.prepare(processor, [[self.says([image], text)]])).safety_level_logits
            for image, text in ((one, "Read the card."), (one, "What colour is it?"), (two, "Read the card."))
        ]
        assert not torch.allclose(logits[0], logits[1], atol=1e-5)
        assert not torch.allclose(logits[0], logits[2], atol=1e-5)

    def test_a_conversation_is_no_less_strict_than_its_turns(self, model, processor):
        image = picture(self.sizes[0], 5)
        question = "Do what the card says."
        turns = [
            self.says([image], question),
            {"role": "assistant", "content": [{"type": "text", "text": "The card is red."}]},
            self.says([], "Thank you very much for your help."),
        ]
        alone = model.assess(**self.prepare(processor, [turns[:1]]))
        whole = model.assess(**self.prepare(processor, [turns]))
        risks = [1 - outputs.safety_level_logits.softmax(dim=-1)[0, 0] for outputs in (alone, whole)]
        assert risks[1] >= risks[0] - 1e-5 or whole.safety_action_ids[0] >= alone.safety_action_ids[0]

    def test_a_reused_cache_answers_as_without_one(self, model, processor):
        """Another request comes in between: whatever the backbone keeps on the model must not reach this one."""
        first, second = self.conversations()[0], self.conversations()[1]
        opening = self.prepare(processor, [first])
        outputs = self.answer(model, opening, output_logits=False)
        reply = processor.decode(outputs.sequences[0, -NEW_TOKENS:], skip_special_tokens=True)
        self.answer(model, self.prepare(processor, [second]), output_logits=False)
        # The conversation goes on by token ids, so that the answer in it is the one in the cache.
        more = processor.tokenizer(" And what colour is it?", add_special_tokens=False, return_tensors="pt")[
            "input_ids"
        ]
        whole = {**opening, "input_ids": torch.cat([outputs.sequences, more], dim=1)}
        length = whole["input_ids"].shape[1]
        for name in ("attention_mask", "mm_token_type_ids", "question_mask", "token_type_ids"):
            if name in opening:
                fill = 0 if "type" in name else 1
                added = length - opening["input_ids"].shape[1]
                whole[name] = torch.nn.functional.pad(opening[name], (0, added), value=fill)
        again = self.answer(model, without_images(whole), past_key_values=cache_of(outputs))
        anew = self.answer(model, whole)
        assert again.sequences.tolist() == anew.sequences.tolist(), reply
        for one, other in zip(again.logits, anew.logits):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)

    def test_what_is_kept_on_the_model_stays_with_its_cache(self, own_tokenizer, processor):
        """A caller's own loop over `forward`, and text alone, go on as on a fresh model, whatever was asked before."""
        opening, other = (self.prepare(processor, [self.conversations()[row]]) for row in (0, 1))
        text = {"input_ids": self.prepare(processor, self.conversations()[2:])["input_ids"]}
        twice = {"input_ids": text["input_ids"].repeat(1, 2)}

        def go_on(ask) -> list[torch.Tensor]:
            model, found = self.make_model(own_tokenizer), []
            static = StaticCache(model.config, max_cache_len=2 * twice["input_ids"].shape[1])
            for inputs, cache in ((opening, None), (text, None), (text, static)):
                ask(model)
                cache = model(**inputs, **{CACHE: cache})[CACHE]
                ask(model)
                found.append(model(**text, **{CACHE: cache}).logits)
            ask(model)
            found.append(model(inputs_embeds=model.get_input_embeddings()(text["input_ids"])).logits)
            ask(model)
            cache = model(**text)[CACHE]
            ask(model)
            return [*found, *self.answer(model, twice, **{CACHE: cache}).logits]

        for again, anew in zip(go_on(lambda model: self.answer(model, other)), go_on(lambda model: None)):
            torch.testing.assert_close(again, anew, atol=1e-5, rtol=0)

    def test_a_cache_is_filled_anew_where_the_verdict_changes(self, model, processor):
        inputs = dict(self.prepare(processor, self.conversations()))
        earlier = self.answer(model, inputs, safety_policy=DISABLED)
        cache = {"past_key_values": cache_of(earlier)}
        again = self.answer(model, without_images(inputs), **cache, safety_policy=CAREFUL)
        anew = self.answer(model, inputs, safety_policy=CAREFUL)
        assert (again.safety_condition_ids != earlier.safety_condition_ids).all()
        assert torch.equal(again.sequences, anew.sequences)
        for one, other in zip(again.logits, anew.logits):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)

    def test_gradients_reach_every_safety_tensor(self, own_tokenizer, processor):
        model = self.make_model(own_tokenizer).train()
        inputs = self.prepare(processor, self.conversations())
        labels = torch.where(inputs["attention_mask"] == 1, inputs["input_ids"], -100)
        labels[:, :-3] = -100
        outputs = model(
            **inputs, labels=labels, safety_levels=torch.tensor([1, 0, 3]), safety_categories=torch.tensor([0, 6, 2])
        )
        expected = outputs.lm_loss + model.config.safety_config.loss_weight * outputs.safety_loss
        torch.testing.assert_close(outputs.loss, expected)
        outputs.loss.backward()
        without = [name for name, weight in model.named_parameters() if "safety_" in name and weight.grad is None]
        assert not without

    def test_unreadable_pixels_end_under_a_highest_level(self, model, processor):
        inputs = self.prepare(processor, self.conversations()[:1])
        pixels = inputs["pixel_values"].clone()
        pixels.view(-1)[0] = float("nan")
        outputs = self.answer(model, {**inputs, "pixel_values": pixels})
        assert all(torch.isfinite(logits).all() for logits in outputs.logits)
        assert outputs.safety_condition_ids.tolist() == [model.config.safety_config.num_conditions - 1]

    def test_unknown_arguments_are_refused(self, model, processor):
        inputs = self.prepare(processor, self.conversations()[:1])
        for name in ("safety_polcy", "safety_inputs", "pixel_values_videos", "position_ids"):
            with pytest.raises(TypeError, match=name):
                model.assess(**inputs, **{name: inputs["pixel_values"]})
        with pytest.raises(TypeError, match="positional arguments"):
            model(*range(60))

    def test_explain(self, model, processor):
        found = model.explain(**self.prepare(processor, self.conversations()))
        assert found.map.shape == (3, 3, 3) and torch.isfinite(found.map).all()

    @pytest.mark.parametrize("name", ["pixel_values_videos", "input_features", "audio_values", "video", "audio"])
    def test_video_and_audio_are_refused_by_the_model(self, model, processor, name):
        inputs = self.prepare(processor, self.conversations()[:1])
        given = {name: inputs.pop("pixel_values")}
        if name in ("video", "audio"):  # encoded before the call
            given = {"mm_encoder_outputs": given}
        for call in (model, model.model, model.generate):
            with pytest.raises(ValueError, match="no verdict on video and audio yet"):
                call(**inputs, **given)

    def test_video_and_audio_are_refused_by_the_processor(self, processor):
        video, sound = np.zeros((2, 16, 16, 3), dtype=np.uint8), np.zeros(1600, dtype=np.float32)
        for given in ({"videos": [video]}, {"audio": [sound]}):
            with pytest.raises(ValueError, match="no verdict on video and audio yet"):
                processor(text=["hello"], **given)
        for part in ({"type": "video", "video": video}, {"type": "audio", "audio": sound}):
            message = {"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}
            # Some templates refuse by themselves what they do not know.
            with pytest.raises((ValueError, TemplateError), match="no verdict on video and audio yet|Unexpected item"):
                self.prepare(processor, [[message]])

    def test_what_places_an_image_must_be_given(self, model, processor):
        """Grids, sizes, token types: without one of them an image would be misplaced, or its pixels misread."""
        inputs = dict(self.prepare(processor, self.conversations()))
        for name in inputs.keys() - OPTIONAL:
            without = {other: value for other, value in inputs.items() if other != name}
            for call in (model, model.generate):
                with pytest.raises(ValueError, match=f"{name}|do not match"):
                    call(**without)

    def test_structure_tokens_are_no_question(self, model, processor):
        """The same question on pictures of several sizes, without a mask."""
        found = []
        for size in self.sizes:
            inputs = self.prepare(processor, [[self.says([picture(size, 1)], "Read it.")]])
            safety_inputs = model.model.prepare_safety_inputs(inputs["input_ids"])
            encoded = model.model.encode_images(inputs["pixel_values"], dict(inputs), safety_inputs)
            lengths = [len(block) for block in encoded.pooler_output]
            found.append(inputs["input_ids"][model.model.question_mask_of(safety_inputs, lengths)].tolist())
        assert found[0] == found[1] == found[2]

    def test_encoded_images_under_an_old_name_raise(self, model, processor):
        """They would fill a cache that is taken for one without images."""
        inputs = self.prepare(processor, self.conversations()[:1])
        features = model.model.encode_images(inputs["pixel_values"], dict(inputs)).pooler_output
        for forward in (model, model.model):
            with pytest.raises(ValueError, match="images without a verdict"):
                forward(input_ids=inputs["input_ids"], image_hidden_states=torch.cat(features)[None])

    def test_positions_of_the_stock_processor_raise(self, model, own_tokenizer):
        stock = self.make_processor(own_tokenizer, NOTHING_ADDED)
        with pytest.raises(ValueError, match="image tokens do not match|mark"):
            model.generate(**self.prepare(stock, self.conversations()[:1]), max_new_tokens=1)

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

    def test_4_bits_leave_the_verdict(self, processor, checkpoint):
        config = QUANTISERS["bitsandbytes 4 bit"]()
        quantised = self.model_class.from_pretrained(checkpoint, quantization_config=config).eval()
        linear = [module for module in quantised.model.get_decoder().modules() if isinstance(module, torch.nn.Linear)]
        assert linear and all(type(module.weight) is not torch.nn.Parameter for module in linear)
        inputs = self.prepare(processor, self.conversations())
        # Loaded as the quantised one was: on some processors equal weights at another address differ in the last bit.
        loaded = self.model_class.from_pretrained(checkpoint).eval()
        found, expected = self.answer(quantised, inputs), self.answer(loaded, inputs)
        assert torch.equal(found.safety_level_logits, expected.safety_level_logits)
        assert torch.equal(found.safety_category_logits, expected.safety_category_logits)
        assert not torch.allclose(found.logits[0].float(), expected.logits[0], atol=1e-3)

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

    def test_serve(self, checkpoint):
        """What `safevlm serve` loads, behind its app."""
        serving = pytest.importorskip("safevlm_hf.serving", reason="needs the extra `serve`")
        testclient = pytest.importorskip("fastapi.testclient", reason="needs the extra `serve`")
        with verbosity_kept():
            model, processor = load(str(checkpoint))
        image = picture(self.sizes[0], 0)
        inputs = self.prepare(processor, [[self.says([image], "Read it.")]])
        expected = self.answer(model, inputs, min_new_tokens=None).sequences[0, inputs["input_ids"].shape[1] :]
        expected = processor.decode(expected, skip_special_tokens=True).strip()

        def ask(client, *parts):
            message = {"role": "user", "content": [*parts, {"type": "text", "text": "Read it."}]}
            response = client.post("/v1/chat/completions", json={"messages": [message], "max_tokens": NEW_TOKENS})
            assert response.status_code == 200, response.text
            return response.json()["choices"][0]["message"]["content"].strip()

        shown = {"type": "image_url", "image_url": {"url": data_url(image)}}
        with testclient.TestClient(serving.create_app(model, processor, "tiny")) as client:
            assert ask(client, shown) == expected
        with testclient.TestClient(serving.create_app(model, processor, "tiny", policy=REFUSE_ALL)) as client:
            refusal = SafetyPolicy.create(REFUSE_ALL).refusal(None)
            assert refusal.startswith(ask(client, shown)) and not refusal.startswith(ask(client))
            response = client.post("/v1/moderations", json={"input": [shown]})
            assert response.json()["results"][0]["action"] == "refuse"

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


def flags(**values) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def without_images(inputs: dict) -> dict:
    return {name: value for name, value in inputs.items() if not name.startswith(("pixel", "safety"))}


def cache_of(outputs):
    """Under its name in either version of transformers."""
    cache = outputs.get("past_key_values", None)
    return outputs.cache if cache is None else cache


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
