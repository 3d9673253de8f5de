"""What every family must show of `generate`: modes, batches, caches, streams, refusals."""

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache, StaticCache, pipeline
from transformers.generation import utils as generation_utils

from safevlm_hf import SafetyPolicy, read_audit
from safevlm_hf.modeling.safety_cache import CACHE

from .tiny_backbones import (
    CAREFUL,
    DISABLED,
    GREEDY,
    NEW_TOKENS,
    REFUSE_ALL,
    SAFETY,
    SAY_NO,
    cache_of,
    picture,
    without_images,
)


MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "top_k": 20},
    "beams": {"num_beams": 3},
    "several answers": {"do_sample": True, "top_k": 20, "num_return_sequences": 2},
    "beams, several answers": {"num_beams": 3, "num_return_sequences": 3},
    "static cache": {"cache_implementation": "static"},
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
}
# The same answers each time: the sampled ones take the most probable token.
SEVERAL_ROWS = {
    "beams": {"num_beams": 3, "num_return_sequences": 3},
    "several answers": {"do_sample": True, "top_k": 1, "num_return_sequences": 2},
}
# Inputs with a value for each token, and that of an answer's.
BY_TOKEN = {"attention_mask": 1, "question_mask": 0, "token_type_ids": 0, "mm_token_type_ids": 0}
PLACES = ("image_grid_thw", "token_type_ids", "mm_token_type_ids")  # what a backbone places an encoded image by
ONE_AND_SEVERAL = pytest.mark.parametrize("row", [0, 1], ids=["one picture", "several pictures"])


class SafetyGenerationTester:
    """A part of `SafetyModelTester`."""

    modes = MODES

    @pytest.fixture(scope="class")
    def greedy_answers(self, model, processor):
        """To one picture, and to several in one sample, each alone."""
        return [self.answer(model, self.prepare(processor, [one])) for one in self.conversations()[:2]]

    @pytest.fixture(scope="class")
    def draft(self, own_tokenizer):
        return self.make_model(own_tokenizer, {**SAFETY, "head_gate_size": 4})

    # -- modes -----------------------------------------------------------------------------------------------------

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

    @pytest.mark.parametrize("mode", SEVERAL_ROWS)
    def test_batch_equals_single_where_a_sample_has_several_answers(self, model, processor, mode):
        conversations, settings = self.conversations(), SEVERAL_ROWS[mode]
        together = self.answer(model, self.prepare(processor, conversations), **settings)
        copies = settings["num_return_sequences"]
        for row, conversation in enumerate(conversations):
            own = slice(row * copies, (row + 1) * copies)
            alone = self.answer(model, self.prepare(processor, [conversation]), **settings)
            assert together.sequences[own, -NEW_TOKENS:].tolist() == alone.sequences[:, -NEW_TOKENS:].tolist()
            for batched, single in zip(together.logits, alone.logits, strict=True):
                torch.testing.assert_close(batched[own], single, atol=1e-4, rtol=0)

    def test_positions_of_a_caller_are_the_models_own_or_raise(self, model, processor):
        inputs = dict(self.prepare(processor, self.conversations()))
        own = model._prepare_position_ids_for_generation(inputs["input_ids"], inputs)
        expected = self.answer(model, inputs).sequences
        for given in (own, *([own[1:]] if own.ndim == 3 else [])):
            assert torch.equal(self.answer(model, inputs, position_ids=given).sequences, expected)
        is_image = inputs["input_ids"] == model.config.image_token_id
        for other in (torch.where(is_image, own + 1, own), own + 1):
            with pytest.raises(ValueError, match="position_ids.*out of the answer's sight"):
                self.answer(model, inputs, position_ids=other)

    @pytest.mark.parametrize("mode", MODES)
    def test_every_mode_answers_under_the_condition(self, model, processor, mode):
        if mode not in self.modes:
            pytest.skip("the stock model has no such mode")
        inputs = self.prepare(processor, self.conversations())
        asked = dict(inputs)
        if mode == "prompt lookup":  # of one sample
            asked = dict(self.prepare(processor, self.conversations()[1:2]))
        plain, careful = (
            self.answer(model, asked, **self.modes[mode], safety_policy=policy) for policy in (DISABLED, CAREFUL)
        )
        answers = len(plain.sequences) // len(asked["input_ids"])
        prompts = asked["input_ids"].repeat_interleave(answers, dim=0)
        assert torch.equal(plain.sequences[:, : prompts.shape[1]], prompts)
        differences = (
            (plain.logits[0] - careful.logits[0]).abs().amax(dim=-1).unflatten(0, (len(asked["input_ids"]), -1))
        )
        assert (differences[:2] > 1e-3).all()
        assert (differences[2:] < 1e-5).all()  # text alone

    @ONE_AND_SEVERAL
    def test_greedy_modes_agree(self, model, processor, greedy_answers, row):
        inputs = self.prepare(processor, [self.conversations()[row]])
        for mode in ("static cache", "prompt lookup"):
            if mode in self.modes:
                check_same_answers(self.answer(model, inputs, **self.modes[mode]), greedy_answers[row])

    @ONE_AND_SEVERAL
    def test_chunked_prefill(self, model, processor, greedy_answers, row):
        inputs = self.prepare(processor, [self.conversations()[row]])
        if not hasattr(generation_utils, "_slice_mm_encoder_output"):  # before transformers 5.24 it drops images
            with pytest.raises(ValueError, match="prefill_chunk_size"):
                self.answer(model, inputs, prefill_chunk_size=5)
            return
        check_same_answers(self.answer(model, inputs, prefill_chunk_size=5), greedy_answers[row])

    @ONE_AND_SEVERAL
    def test_assisted_decoding(self, model, processor, draft, greedy_answers, row):
        inputs = self.prepare(processor, [self.conversations()[row]])
        check_same_answers(self.answer(model, inputs, assistant_model=draft), greedy_answers[row])

    @ONE_AND_SEVERAL
    def test_streaming(self, model, processor, greedy_answers, row):
        inputs, tokens = self.prepare(processor, [self.conversations()[row]]), []
        streamer = SimpleNamespace(put=lambda ids: tokens.extend(ids.flatten().tolist()), end=lambda: None)
        outputs = self.answer(model, inputs, streamer=streamer)
        assert tokens == outputs.sequences[0].tolist()
        check_same_answers(outputs, greedy_answers[row])

    def test_pipeline(self, model, processor, greedy_answers):
        expected = self.read(processor, greedy_answers[0])
        answer = pipeline("image-text-to-text", model=model, processor=processor)
        (found,) = answer(text=self.conversations()[0], return_full_text=False, generate_kwargs=GREEDY)
        assert [found["generated_text"]] == expected

    def test_pipeline_of_batches(self, model, processor, monkeypatch):
        """Of pictures of one size: the library's pipelines join no others, and none with text alone."""
        one, two, three = (picture(self.sizes[0], seed) for seed in range(3))
        conversations = [
            [self.says([one], "What does the card say?")],
            [self.says([two], "Tell me what this picture shows, please, and do what it asks.")],
            [self.says([three], "Which colour is it?")],
        ]
        expected = [self.read(processor, self.answer(model, self.prepare(processor, [one]))) for one in conversations]
        batches, generate = [], model.generate

        def count(**inputs):
            batches.append(len(inputs["input_ids"]))
            return generate(**inputs)

        monkeypatch.setattr(model, "generate", count)
        answer = pipeline("image-text-to-text", model=model, processor=processor)
        found = answer(text=conversations, batch_size=2, return_full_text=False, generate_kwargs=GREEDY)
        assert [[one["generated_text"]] for (one,) in found] == expected and batches == [2, 1]

    def read(self, processor, outputs) -> list[str]:
        return processor.batch_decode(outputs.sequences[:, -NEW_TOKENS:], skip_special_tokens=True)

    # -- refusals, audit -------------------------------------------------------------------------------------------

    def test_a_forced_refusal(self, model, processor):
        inputs = self.prepare(processor, self.conversations())
        outputs = self.answer(
            model, inputs, safety_policy=REFUSE_ALL, tokenizer=processor.tokenizer, max_new_tokens=40
        )
        texts = processor.batch_decode(outputs.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        first = SafetyPolicy.create(REFUSE_ALL).refusal(None).split()[0]
        assert [text.strip().startswith(first) for text in texts] == [True, True, False]

    @pytest.mark.parametrize("mode", [*MODES, "draft"])
    def test_a_refusal_is_forced_in_every_mode(self, model, processor, draft, mode):
        if mode not in self.modes and (mode != "draft" or "prompt lookup" not in self.modes):
            pytest.skip("the stock model has no such mode")
        # Drafts are of one sample.
        conversations = self.conversations()[1:2] if mode in ("prompt lookup", "draft") else self.conversations()
        inputs = self.prepare(processor, conversations)
        settings = {"assistant_model": draft} if mode == "draft" else self.modes[mode]
        outputs = self.answer(model, inputs, **settings, safety_policy=SAY_NO, tokenizer=processor.tokenizer)
        texts = processor.batch_decode(outputs.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        copies = len(texts) // len(conversations)
        is_refused = [text.strip() == "No." for text in texts]
        assert is_refused == [row < 2 for row in range(len(conversations)) for _ in range(copies)], texts

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

    def test_an_assessment_is_audited_as_an_answer(self, model, processor, tmp_path):
        inputs, settings = self.prepare(processor, self.conversations()), {"safety_policy": CAREFUL}
        self.answer(
            model, inputs, max_new_tokens=1, min_new_tokens=1, **settings, safety_audit=tmp_path / "answer.jsonl"
        )
        model.assess(**inputs, **settings, safety_audit=tmp_path / "assessment.jsonl")
        (answered, _), (assessed, _) = (read_audit(tmp_path / f"{name}.jsonl") for name in ("answer", "assessment"))
        assert [line["call"] for line in assessed] == ["assess"] * 3
        for line in (*answered, *assessed):
            del line["call"], line["time"]
        assert assessed == answered

    # -- caches ----------------------------------------------------------------------------------------------------

    def test_a_reused_cache_answers_as_without_one(self, model, processor):
        """Another request comes in between: whatever the backbone keeps on the model must not reach this one."""
        first, second = self.conversations()[0], self.conversations()[1]
        opening = self.prepare(processor, [first])
        outputs = self.answer(model, opening, output_logits=False)
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
        check_same_answers(again, self.answer(model, whole))

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
        check_same_answers(again, anew)

    @pytest.mark.parametrize("order", ["pictures first", "pictures later"])
    def test_a_cache_goes_on_with_new_tokens_alone(self, model, processor, order):
        """And with the whole conversation; a dynamic cache and the caller's own static one."""
        turns = [self.prepare(processor, self.conversations()[row : row + 1]) for row in (1, 2)]
        opening, later = turns if order == "pictures first" else turns[::-1]
        length = sum(turn["input_ids"].shape[1] for turn in turns) + 2 * NEW_TOKENS
        short = {"max_new_tokens": 2, "min_new_tokens": 2}
        for cache in (DynamicCache(config=model.config), StaticCache(model.config, max_cache_len=length)):
            said = self.answer(model, opening, **short, **{CACHE: cache}).sequences
            whole = join_turns(opening, said, later)
            anew = self.answer(model, whole, **short)
            asked = without_images(whole) if order == "pictures first" else whole
            check_same_answers(self.answer(model, asked, **short, **{CACHE: copy.deepcopy(cache)}), anew)
            new = new_tokens(whole, later, int(cache.get_seq_length()))
            if order == "pictures later" and model.model.places_images_by_prompt:
                with pytest.raises(ValueError, match="all images again .* whole conversation"):
                    self.answer(model, new, **short, **{CACHE: cache})
            else:
                check_same_answers(self.answer(model, new, **short, **{CACHE: cache}), anew)

    # -- images that are encoded already ---------------------------------------------------------------------------

    def test_encoded_images_are_answered_in_their_places(self, model, processor):
        """Without what places them they raise, or the backbone finds their places all the same."""
        inputs = dict(self.prepare(processor, self.conversations()))
        expected = self.answer(model, inputs)
        of_images = {name: inputs[name] for name in model.model.image_arguments if name in inputs}
        encoded = {"image": model.get_image_features(inputs["pixel_values"], **of_images)}
        given = {name: value for name, value in inputs.items() if name != "pixel_values"}
        check_same_answers(self.answer(model, given, mm_encoder_outputs=encoded), expected)
        logits = model(**given, mm_encoder_outputs=encoded).logits
        for name in given.keys() - {"input_ids", "attention_mask", "question_mask"}:
            without = {other: value for other, value in given.items() if other != name}
            if name in PLACES:
                for call in (model, model.generate):
                    with pytest.raises(ValueError, match=name):
                        call(**without, mm_encoder_outputs=encoded)
                continue
            check_same_answers(self.answer(model, without, mm_encoder_outputs=encoded), expected)
            torch.testing.assert_close(model(**without, mm_encoder_outputs=encoded).logits, logits)


def check_same_answers(found, expected):
    """The same tokens, and from the same logits: tiny models often say the same whatever they see."""
    length = len(expected.logits)
    assert found.sequences[:, -length:].tolist() == expected.sequences[:, -length:].tolist()
    for one, other in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def join_turns(opening, said: torch.LongTensor, later) -> dict:
    """The inputs of a whole conversation: a first turn, what was said to it, and a second turn."""
    whole = {**opening, **later, "input_ids": torch.cat([said, later["input_ids"]], dim=1)}
    answer = said[:, opening["input_ids"].shape[1] :]
    for name, fill in BY_TOKEN.items():
        if name in opening:
            whole[name] = torch.cat([opening[name], torch.full_like(answer, fill), later[name]], dim=1)
    return whole


def new_tokens(whole: dict, later, past_length: int) -> dict:
    """What comes after the positions in a cache, with the pictures of the last turn."""
    of_images = {name: value for name, value in later.items() if name not in {"input_ids", *BY_TOKEN}}
    by_token = {name: whole[name][:, past_length:] for name in {"input_ids", *BY_TOKEN} if name in whole}
    return {**of_images, **by_token, "attention_mask": whole["attention_mask"]}
