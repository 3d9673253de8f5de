"""The training: the projector learns the names of things, then it and LoRA learn to answer.

The tower is frozen, so its features are computed once. The questions about a picture stand behind it in one sequence:
each sees the picture and itself, and none of the others, so that a picture's 49 positions are computed once for all.
"""

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from safevlm_hf.data.records import load_image
from safevlm_hf.progress import Progress
from safevlm_hf.training.feature_store import FeatureStore, weights_digest

from .pairs import Picture, caption, conversations


IGNORED = -100
BUCKET = 512  # sequences that are sorted by length together
WARMUP_SHARE = 0.03


def tower_features(model, processor, keys: dict[str, str], folder: Path) -> FeatureStore:
    """Return the tower's features of pictures, (positions, width) in half precision. `keys` are references to keys."""
    store = FeatureStore(
        folder,
        {
            "weights": weights_digest([model.model.vision_tower]),
            "features": "vision_tower, float16",
            "picture_settings": processor.image_processor.to_json_string(),
        },
    )

    @torch.no_grad()
    def encode(paths: list[str]) -> torch.Tensor:
        pixels = processor.image_processor(images=[load_image(path) for path in paths], return_tensors="pt")
        features = model.model.vision_tower(pixels["pixel_values"]).last_hidden_state
        return features.flatten(2).transpose(1, 2).half()

    store.fill(keys, encode, batch_size=16)
    return store


# --------------------------------------------------------------------------------------------------
# The projector's first words
# --------------------------------------------------------------------------------------------------


def learn_names(model, processor, pictures: list[Picture], features: torch.Tensor, num_steps: int, seed: int):
    """Train the projector alone so that what it makes of a picture points to the vectors of its caption's words.

    Args:
        features: (pictures, width), means over the positions.
    """
    projector, table = model.model.multi_modal_projector, model.get_input_embeddings().weight.detach()
    ids = [processor.tokenizer(" " + caption(picture).rstrip("."))["input_ids"] for picture in pictures]
    words = sorted({token for row in ids for token in row})
    column = {token: number for number, token in enumerate(words)}
    targets = torch.zeros(len(ids), len(words))
    for number, row in enumerate(ids):
        targets[number, [column[token] for token in row]] = 1
    rarity = (len(ids) / targets.sum(dim=0)).log() + 1e-3  # "photo" and "of" say nothing
    targets = F.normalize(targets * rarity, p=1, dim=1)
    directions = F.normalize(table[words], dim=1)
    length = table.norm(dim=1).mean()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=1e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    with Progress(num_steps, "projector: names", "step") as bar:
        for step in range(num_steps):
            rows = torch.randint(len(ids), (128,), generator=generator)
            made = projector(features[rows].float())
            logits = 20 * F.normalize(made, dim=1) @ directions.T
            scale = (made.norm(dim=1) / length - 1).square().mean()
            loss = -(targets[rows] * logits.log_softmax(dim=1)).sum(dim=1).mean() + scale
            optimizer.zero_grad()
            loss.backward()
            set_rate(optimizer, 1 - step / num_steps)
            optimizer.step()
            bar.update(1)
    return loss.item()


# --------------------------------------------------------------------------------------------------
# Sequences
# --------------------------------------------------------------------------------------------------


@dataclass
class Sequence:
    """A picture with several conversations behind it.

    Args:
        key: of the picture's features.
        ids, labels: of the conversations; the picture's own part is the same for all and stands in front.
        segments: (tokens,) the number of each token's conversation, from 1 on.
        places: (tokens,) each token's position, as if its conversation stood behind the picture alone.
    """

    key: str
    ids: list[int]
    labels: list[int]
    segments: list[int]
    places: list[int]


class Encoder:
    """Conversations to sequences, by the processor's own template."""

    def __init__(self, processor, image_token_id: int, num_positions: int):
        self.processor, self.image_token_id = processor, image_token_id
        self.head = self._tokens([{"role": "user", "content": [{"type": "text", "text": ""}]}], num_positions)[0]

    def _tokens(self, turns: list[dict], num_positions: int) -> tuple[list[int], list[int], list[int]]:
        """Return the ids up to the last of the picture, those behind it, and which of those are answers."""
        first = {"role": "user", "content": [{"type": "image"}, *turns[0]["content"]]}
        text = self.processor.tokenizer.apply_chat_template(
            [first, *turns[1:]],
            chat_template=self.processor.chat_template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids, answers = text["input_ids"], text["assistant_masks"]
        place = ids.index(self.image_token_id)
        head = ids[:place] + [self.image_token_id] * num_positions
        return head, ids[place + 1 :], answers[place + 1 :]

    def encode(self, key: str, turns: list[list[dict]], max_tokens: int) -> Sequence | None:
        """Return the sequence of the conversations that fit into `max_tokens`; `None` where none does."""
        sequence = Sequence(key, [], [], [], [])
        for conversation in turns:
            _, ids, answers = self._tokens(conversation, 1)
            if len(sequence.ids) + len(ids) > max_tokens or self.image_token_id in ids:
                continue  # a text that has the picture's placeholder in it would get a picture's vectors
            segment = (sequence.segments[-1] if sequence.segments else 0) + 1
            sequence.ids += ids
            sequence.labels += [token if answer else IGNORED for token, answer in zip(ids, answers)]
            sequence.segments += [segment] * len(ids)
            sequence.places += range(len(self.head), len(self.head) + len(ids))
        return sequence if sequence.ids else None


def batches(make_sequences, batch_size: int, rng: random.Random) -> Iterator[list[Sequence]]:
    """Yield endless batches of sequences of about one length. `make_sequences` draws an epoch's."""
    while True:
        drawn = make_sequences(rng)
        for start in range(0, len(drawn), BUCKET):
            bucket = sorted(drawn[start : start + BUCKET], key=lambda sequence: len(sequence.ids))
            parts = [bucket[first : first + batch_size] for first in range(0, len(bucket), batch_size)]
            rng.shuffle(parts)
            yield from parts


def answer_loss(model, head: list[int], batch: list[Sequence], features: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the answers' tokens.

    Args:
        head: ids up to the last of the picture.
        features: (batch, positions, width) of the tower.
    """
    pad = max(len(sequence.ids) for sequence in batch)

    def padded(name: str, filler: int) -> torch.Tensor:
        rows = [getattr(sequence, name) for sequence in batch]
        return torch.tensor([row + [filler] * (pad - len(row)) for row in rows])

    ids = torch.cat([torch.tensor([head]).expand(len(batch), -1), padded("ids", 0)], dim=1)
    places = torch.cat([torch.arange(len(head)).expand(len(batch), -1), padded("places", 0)], dim=1)
    segments = torch.cat([torch.zeros(len(batch), len(head), dtype=torch.long), padded("segments", -1)], dim=1)
    embeddings = model.get_input_embeddings()(ids)
    is_image = (ids == model.config.image_token_id)[..., None]
    projected = model.model.multi_modal_projector(features.float())
    embeddings = embeddings.masked_scatter(is_image, projected.to(embeddings.dtype))
    states = model.model.language_model(
        inputs_embeds=embeddings, attention_mask=sees(segments), position_ids=places, use_cache=False
    ).last_hidden_state
    labels = torch.cat([torch.full((len(batch), len(head)), IGNORED), padded("labels", IGNORED)], dim=1)[:, 1:]
    is_learned = labels != IGNORED
    logits = model.lm_head(states[:, :-1][is_learned])
    return F.cross_entropy(logits.float(), labels[is_learned])


def sees(segments: torch.Tensor) -> torch.Tensor:
    """Return the mask (batch, 1, length, length) in which a token sees the picture's part, 0, and its own segment, as
    far as they stand before it; padding, -1, sees itself."""
    same = segments[:, :, None] == segments[:, None, :]
    visible = same | (segments[:, None, :] == 0)
    length = segments.shape[1]
    return (visible & torch.ones(length, length, dtype=torch.bool).tril())[:, None]


def with_lora(model, rank: int):
    """Return the model with adapters on the language model's linear layers; they and the projector are trained."""
    from peft import LoraConfig, get_peft_model

    linears = [
        name
        for name, module in model.named_modules()
        if name.startswith("model.language_model.") and isinstance(module, torch.nn.Linear)
    ]
    tuned = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linears))
    model.model.multi_modal_projector.requires_grad_(True)
    return tuned


def learn_answers(model, encoder: Encoder, make_sequences, store: FeatureStore, args, deadline: float) -> dict:
    """Train adapters and projector, in place, for `args.steps` steps or until the deadline, a time of
    `time.monotonic`; the rate falls to 0 by the one that comes first.

    Returns:
        steps, seconds and the loss of the last tenth of the steps.
    """
    projector = [*model.model.multi_modal_projector.parameters()]
    adapters = [weight for name, weight in model.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(
        [{"params": adapters, "lr": args.learning_rate}, {"params": projector, "lr": args.projector_learning_rate}],
        weight_decay=0.0,
        betas=(0.9, 0.98),
    )
    drawn = batches(make_sequences, args.batch_size, random.Random(f"answers {args.seed}"))
    begin, losses, share = time.monotonic(), [], 0.0
    with Progress(args.steps, "projector and LoRA", "step") as bar:
        while share < 1:
            batch = next(drawn)
            features = torch.stack([store.read(sequence.key) for sequence in batch])
            loss = answer_loss(model, encoder.head, batch, features)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*adapters, *projector], 1.0)
            set_rate(optimizer, min(1.0, share / WARMUP_SHARE + 0.01) * 0.5 * (1 + math.cos(math.pi * share)))
            optimizer.step()
            losses.append(loss.item())
            bar.update(1)
            bar.set_postfix_str(f"loss {sum(losses[-50:]) / len(losses[-50:]):.3f}", refresh=False)
            past = (time.monotonic() - begin) / max(deadline - begin, 1e-9)
            share = max(len(losses) / args.steps, past)
    last = losses[-max(1, len(losses) // 10) :]
    return {"steps": len(losses), "seconds": round(time.monotonic() - begin), "loss": round(sum(last) / len(last), 4)}


def set_rate(optimizer, factor: float):
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = group["initial_lr"] * factor


def make_drawing(pictures: list[Picture], keys: dict[str, str], encoder: Encoder, told: dict, max_tokens: int):
    """Return a function that draws an epoch's sequences: each picture once, in a new order, with new questions."""
    phrases = sorted({picture.phrase for picture in pictures if picture.phrase})

    def draw(rng: random.Random) -> list[Sequence]:
        order = rng.sample(pictures, len(pictures))
        made = (
            encoder.encode(keys[picture.reference], conversations(picture, phrases, told, rng), max_tokens)
            for picture in order
        )
        return [sequence for sequence in made if sequence is not None]

    return draw
