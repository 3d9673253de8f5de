"""What every family of backbones must show, on a tiny random checkpoint with its real processor class.

A family's test file subclasses `SafetyModelTester` and says how its stock config, its processor and its messages look.
Here are the fixtures, and the tests of the model and its verdict; `safety_generation_tester.py` and
`safety_checkpoint_tester.py` hold the others.
"""

import copy

import numpy as np
import pytest
import torch
from jinja2 import TemplateError
from transformers import DynamicCache, StaticCache, set_seed
from transformers.utils import logging

from safevlm_hf.modeling.safety_cache import CACHE

from .safety_checkpoint_tester import SafetyCheckpointTester, init
from .safety_generation_tester import BY_TOKEN, MODES, SafetyGenerationTester
from .tiny_backbones import (
    CAREFUL,
    DISABLED,
    GREEDY,
    LLAVA_LAYOUT,
    LLAVA_TEMPLATE,
    NOTHING_ADDED,
    SAFETY,
    cache_of,
    picture,
    tiny_text_config,
    tiny_tokenizer,
    without_images,
)


OPTIONAL = {"input_ids", "attention_mask", "question_mask", "pixel_values", "pixel_attention_mask"}


class SafetyModelTester(SafetyGenerationTester, SafetyCheckpointTester):
    config_class: type
    model_class: type
    processor_class: type
    stock_class: type
    sizes = ((40, 24), (16, 16), (24, 48))

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

    # -- the model -------------------------------------------------------------------------------------------------

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

    def test_a_condition_changes_its_own_row_alone(self, model, processor):
        inputs = self.prepare(processor, self.conversations())
        rows = len(model.assess(**inputs).safety_image_rows)
        plain, other = (
            model(**inputs, safety_conditions=torch.tensor([0, row, row][:rows])).logits[:, -1] for row in (0, 1)
        )
        changed = ((plain - other).abs().amax(dim=-1) > 1e-4).tolist()
        assert changed == [False, True, False]

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

    def test_unknown_arguments_are_refused(self, model, processor):
        inputs = self.prepare(processor, self.conversations()[:1])
        for name in ("safety_polcy", "safety_inputs", "pixel_values_videos", "position_ids"):
            with pytest.raises(TypeError, match=name):
                model.assess(**inputs, **{name: inputs["pixel_values"]})
        with pytest.raises(TypeError, match="positional arguments"):
            model(*range(60))

    def test_positions_of_the_stock_processor_raise(self, model, own_tokenizer):
        stock = self.make_processor(own_tokenizer, NOTHING_ADDED)
        with pytest.raises(ValueError, match="image tokens do not match|mark"):
            model.generate(**self.prepare(stock, self.conversations()[:1]), max_new_tokens=1)

    # -- the verdict -----------------------------------------------------------------------------------------------

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

    def test_unreadable_pixels_end_under_a_highest_level(self, model, processor):
        inputs = self.prepare(processor, self.conversations()[:1])
        pixels = inputs["pixel_values"].clone()
        pixels.view(-1)[0] = float("nan")
        outputs = self.answer(model, {**inputs, "pixel_values": pixels})
        assert all(torch.isfinite(logits).all() for logits in outputs.logits)
        assert outputs.safety_condition_ids.tolist() == [model.config.safety_config.num_conditions - 1]

    def test_explain(self, model, processor):
        inputs = self.prepare(processor, self.conversations())
        found, verdicts = model.explain(**inputs), model.assess(**inputs)
        assert found.map.shape == (3, 3, 3) and torch.isfinite(found.map).all()
        safe_category = model.config.safety_config.safe_category
        margins = sum(
            logits.index_fill(1, torch.tensor([safe]), -torch.inf).amax(dim=1) - logits[:, safe]
            for logits, safe in (
                (verdicts.safety_level_logits, 0),
                (verdicts.safety_category_logits, safe_category),
            )
        )
        torch.testing.assert_close(found.risk_margin, margins, rtol=0, atol=1e-5)
        of_image = found.image_contributions.sum(dim=(1, 2)) + found.tile_contributions.sum(dim=1)
        parts = {
            "image": of_image + found.safety_token_contributions,
            "question": found.question_contributions.sum(dim=1),
        }
        for name, part in parts.items():
            assert (part.abs() > 1e-3).all(), name
            torch.testing.assert_close(part + found.bias_contributions, margins, rtol=0, atol=1e-5)

    def test_structure_tokens_are_no_question(self, model, processor):
        """Without a mask the question is the same on pictures of several sizes; with it, the words alone."""
        image_token_id, inside = model.config.image_token_id, set()
        for number in (1, 2):
            found = []
            for place, size in enumerate(self.sizes):
                pictures = [picture(size, 1), picture(self.sizes[place - 1], 2)][:number]
                inputs = dict(self.prepare(processor, [[self.says(pictures, "Read it.")]]))
                ids, mask = inputs["input_ids"][0], inputs.pop("question_mask")[0]
                if number == 1:
                    first, *_, last = (ids == image_token_id).nonzero().flatten().tolist()
                    inside |= {*ids[first:last].tolist()} & {*processor.tokenizer.all_special_ids} - {image_token_id}
                safety_inputs = model.model.prepare_safety_inputs(ids[None])
                encoded = model.model.encode_images(inputs["pixel_values"], inputs, safety_inputs)
                lengths = [len(block) for block in encoded.pooler_output]
                (question,) = model.model.question_mask_of(safety_inputs, lengths)
                found.append(ids[question].tolist())
                assert processor.decode(ids[question & (mask != 0)]) == "Read it."
            assert found[0] == found[1] == found[2] and not inside & {*found[0]}
        assert bool(inside) == model.model.has_structure_tokens

    # -- what is refused -------------------------------------------------------------------------------------------

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

    def test_image_tokens_without_images_raise(self, model, processor, tmp_path):
        """In every form of a prompt; the verdict would be nobody's. A plain `forward` has none, and says so."""
        inputs = without_images(self.prepare(processor, self.conversations()[:1]))
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
        static = StaticCache(model.config, max_cache_len=2 * embeds.shape[1])
        shadow = {"safety_shadow": True, "safety_audit": tmp_path / "audit.jsonl"}
        for more in (
            {},
            {"mm_encoder_outputs": {"image": None}},
            {"inputs_embeds": embeds, "input_ids": None},
            {"inputs_embeds": embeds},
            {CACHE: DynamicCache(config=model.config)},
            {CACHE: static},
            shadow,
            {"safety_policy": DISABLED},
        ):
            with pytest.raises(ValueError, match="holds image tokens, and no images came with it"):
                self.answer(model, {**given, **more})
        for call in (model.assess, model.explain):
            with pytest.raises(ValueError, match="need `pixel_values`"):
                call(**inputs)

    def test_an_untrained_model_answers_image_tokens_without_images(self, own_tokenizer, processor, caplog):
        """There is no verdict to lose before stage 1, and the library's own tests ask for it."""
        logging.warning_once.cache_clear()
        model = self.make_model(own_tokenizer)
        model.config.safety_config.is_trained = False
        inputs = without_images(self.prepare(processor, self.conversations()[:1]))
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        for _ in range(2):
            assert self.answer(model, given).sequences.shape[1] > given["input_ids"].shape[1]
        assert caplog.text.count("holds image tokens, and no images came with it") == 1

    def test_forward_warns_once_of_image_tokens_without_images(self, model, processor, caplog):
        logging.warning_once.cache_clear()
        ids = self.prepare(processor, self.conversations()[:1])["input_ids"]
        text = self.prepare(processor, self.conversations()[2:])["input_ids"]
        assert model(input_ids=text).safety_level_logits is None and "image tokens" not in caplog.text
        for _ in range(2):
            outputs = model(input_ids=ids)
            assert outputs.safety_level_logits is None and torch.isfinite(outputs.logits).all()
        assert caplog.text.count("holds image tokens, and no images came with it") == 1
        # Nor does `generate` go on from there.
        turn = {"input_ids": text, "attention_mask": torch.ones(1, ids.shape[1] + text.shape[1]).long()}
        with pytest.raises(ValueError, match="The cache holds images whose verdict is not known"):
            self.answer(model, {**turn, CACHE: cache_of(outputs)})

    def test_only_structure_tokens_stand_inside_a_block(self, processor, checkpoint):
        """Words between the image tokens of one image are no part of it, and may be nobody's question."""
        model = self.model_class.from_pretrained(checkpoint).eval()
        inputs = dict(self.prepare(processor, [[self.says([picture(self.sizes[0], 1)], "Read it.")]]))
        encoded = self.encode(model, inputs)
        for name, wrong in wrong_blocks(inputs, model.config.image_token_id).items():
            for call in (model, model.generate, model.assess, model.explain):
                with pytest.raises(ValueError, match="stands between the image tokens"):
                    call(**wrong)
                    pytest.fail(f"taken: {name}")
            with pytest.raises(ValueError, match="stands between the image tokens"):
                model.generate(**without_images(wrong), mm_encoder_outputs={"image": encoded})
        self.answer(model, inputs)

    def test_a_model_without_a_tokenizer_knows_structure_by_its_places(self, model, processor, caplog):
        logging.warning_once.cache_clear()
        inputs = dict(self.prepare(processor, [[self.says([picture(self.sizes[0], 1)], "Read it.")]]))
        model.assess(**inputs)
        assert ("No tokenizer was found" in caplog.text) == model.model.has_structure_tokens
        for name, wrong in wrong_blocks(inputs, model.config.image_token_id).items():
            if name.startswith(("a word in", "a word beside", "padding")):
                with pytest.raises(ValueError, match="stands between the image tokens"):
                    model.assess(**wrong)
                    pytest.fail(f"taken: {name}")

    def encode(self, model, inputs):
        of_images = {name: inputs[name] for name in model.model.image_arguments if name in inputs}
        return model.get_image_features(inputs["pixel_values"], **of_images)

    def test_a_word_between_two_blocks_that_shift_raises(self, model, processor):
        """The second picture's positions begin in the first one's block, so that both have as many as they need."""
        inputs = dict(self.prepare(processor, self.conversations()[1:2]))
        safety, image_token_id = model.config.safety_config, model.config.image_token_id
        extra = safety.num_safety_tokens + safety.num_condition_tokens
        length = extra + len(self.encode(model, inputs).image_features[0])
        places = (inputs["input_ids"][0] == image_token_id).nonzero().flatten().tolist()
        columns = [*range(inputs["input_ids"].shape[1])]
        word = columns.pop()  # from the end of the prompt to a place inside
        for place in (places[length - 1], places[length + 1]):
            shifted = columns_of(inputs, [*columns[:place], word, *columns[place:]])
            for call in (model, model.generate, model.assess):
                with pytest.raises(ValueError, match="stands between the image tokens"):
                    call(**shifted)

    def test_a_cached_block_is_not_taken_apart(self, model, processor):
        """The images come from the cache, and the ids of the whole conversation say that a word stands among them."""
        inputs = dict(self.prepare(processor, self.conversations()[:1]))
        outputs = self.answer(model, inputs, output_logits=False)
        last = int((inputs["input_ids"][0] == model.config.image_token_id).nonzero().max())
        added = torch.arange(inputs["input_ids"].shape[1])
        wrong = columns_of(inputs, [*added[:last].tolist(), len(added) - 1, *added[last:].tolist()])
        with pytest.raises(ValueError, match="stands between the image tokens"):
            self.answer(model, without_images(wrong), past_key_values=cache_of(outputs))

    def test_encoded_images_under_an_old_name_raise(self, model, processor):
        """They would fill a cache that is taken for one without images."""
        inputs = self.prepare(processor, self.conversations()[:1])
        features = model.model.encode_images(inputs["pixel_values"], dict(inputs)).pooler_output
        for forward in (model, model.model):
            with pytest.raises(ValueError, match="images without a verdict"):
                forward(input_ids=inputs["input_ids"], image_hidden_states=torch.cat(features)[None])


def columns_of(inputs: dict, columns: list[int]) -> dict:
    """The same inputs with the tokens in these columns."""
    names = ("input_ids", *BY_TOKEN)
    return {name: value[:, columns] if name in names else value for name, value in inputs.items()}


def wrong_blocks(inputs: dict, image_token_id: int) -> dict[str, dict]:
    """Prompts of one picture, by what is wrong in its block."""
    is_image = inputs["input_ids"][0] == image_token_id
    places = is_image.nonzero().flatten().tolist()
    first, last, columns = places[0], places[-1], [*range(len(is_image))]
    ids = inputs["input_ids"][0].tolist()
    word = next(column for column in columns[last:] if ids[column] not in ids[first : last + 1])
    wrong = {
        "a word in front of the picture": [*columns[: first + 1], word, *columns[first + 1 :]],
        "a word in the middle": [*columns[: places[len(places) // 2]], word, *columns[places[len(places) // 2] :]],
        "a word in front of the last position": [*columns[:last], word, *columns[last:]],
    }
    for place in (column for column in columns[first:last] if not is_image[column]):
        wrong |= {
            f"a word for structure {place}": [*columns[:place], word, *columns[place + 1 :]],
            f"a word beside structure {place}": [*columns[:place], word, *columns[place:]],
            f"no structure {place}": [*columns[:place], *columns[place + 1 :]],
            f"structure {place} twice": [*columns[: place + 1], *columns[place:]],
            f"structure {place} later": [*columns[:place], place + 1, place, *columns[place + 2 :]],
        }
    # Two line breaks that change places are the same.
    changed = {name: order for name, order in wrong.items() if [ids[column] for column in order] != ids}
    prompts = {name: columns_of(inputs, order) for name, order in changed.items()}
    padded = copy.deepcopy(prompts["a word in the middle"])
    padded["attention_mask"][0, places[len(places) // 2]] = 0
    return {**prompts, "padding in the middle": padded}


__all__ = [
    "CAREFUL",
    "DISABLED",
    "LLAVA_LAYOUT",
    "LLAVA_TEMPLATE",
    "MODES",
    "NOTHING_ADDED",
    "SAFETY",
    "SafetyModelTester",
    "cache_of",
    "init",
    "picture",
    "tiny_text_config",
    "tiny_tokenizer",
    "without_images",
]
