"""The safety head that reads words of its own (`head_reading="words"`), in place of the language model's embeddings.

question_ids (samples, words) -> word vectors -> windows of 4, 8, 16 and 32 words (`WindowTree`)
each window -> cross-attention over [s(1); h_s] -> scaled and shifted by the window -> level and category logits

The word vectors are principal parts of a sentence encoder's, so that words of like meaning ask alike. They belong to
the safety modules: no vocabulary, adapter or quantisation of a language model changes a verdict.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel
from transformers import initialization as init

from .safety_modules import FanInLinear, RowwiseLinear, Windows, are_tokens, join_tokens, key_mask


DROPOUT = 0.1
MUCH_DROPOUT = 0.4  # where pictures of few sources would be learned by heart
RARE = -2.0  # log-odds of a concept before training
RUNS = ((32, 16), (16, 8), (8, 4))  # words of a run that the sentence encoder reads, and from one run to the next
FIRST, LAST = 101, 102  # the encoder's marks around a text, [CLS] and [SEP] of BERT's vocabulary
MOST_KNOWN = 400_000  # runs that training keeps in memory, of 2 kB each
WHOLE_ALONE = 0.5  # share of questions of which training reads the encoder's longest runs alone
NUM_GROUPS = 4  # of questions of like length that training reads together


class WindowTree(nn.Module):
    """
    States of all windows of a question, each by its own words alone.

    Four words in their order are a leaf; two windows side by side make one of twice the size. So a window's state is
    the same whatever stands around it, and no words talk away what another run of words asks.

    The word vectors stay as they are in training, which leaves out some words, as unknown ones are
    (`head_gate_dropout`); the sentence encoder reads them all.

    Args:
        safety_config: a [`SafetyConfig`].
    """

    def __init__(self, safety_config):
        super().__init__()
        word_size, hidden_size = safety_config.head_word_size, safety_config.head_hidden_size
        self.window_sizes = window_sizes = safety_config.head_window_sizes
        self.word_dropout = safety_config.head_gate_dropout
        self.words = nn.Embedding(safety_config.head_vocab_size, word_size)
        self.words.weight.requires_grad_(False)
        self.no_word = nn.Parameter(torch.zeros(word_size))
        self.leaf = _curved(window_sizes[0] * word_size, hidden_size)
        self.skip = FanInLinear(word_size, hidden_size)
        self.merges = nn.ModuleList(_curved(2 * hidden_size, hidden_size) for _ in window_sizes[1:])
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in window_sizes)
        self.enter = FanInLinear(hidden_size, hidden_size)
        self.of_size = nn.Parameter(torch.zeros(len(window_sizes), hidden_size))
        self.reading = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            FanInLinear(hidden_size, hidden_size),
            nn.GELU(),
            nn.Dropout(DROPOUT),
        )
        self.sentences = SentenceReader(safety_config) if safety_config.head_sentence_layers else None

    def forward(
        self, word_ids: torch.LongTensor, count: torch.LongTensor, missing: int | None = None
    ) -> tuple[torch.Tensor, torch.BoolTensor]:
        """
        Args:
            word_ids: (samples, words), joined; what stands behind `count` (samples, 1) of them is no word.
            missing: the place of a word that is read as if it were none.

        Returns:
            States (samples, windows, hidden), in the order of [`places`], and which of them are windows. Fewer words
            than the smallest size are one window, filled up; so is a question without words.
        """
        smallest = self.window_sizes[0]
        word_ids = F.pad(word_ids, (0, max(0, smallest - word_ids.shape[1])))
        is_word = are_tokens(count, word_ids.shape[1])
        if missing is not None:
            is_word = is_word & (torch.arange(is_word.shape[1], device=is_word.device) != missing)
        is_heard = is_word
        if self.training and self.word_dropout:
            is_heard = is_word & (torch.rand(is_word.shape, device=is_word.device) >= self.word_dropout)
        vectors = torch.where(is_heard[..., None], self.words(word_ids), self.no_word)
        # The runs are stacked, not unfolded: some engines' linear layers take no strides but the usual ones.
        num_runs = vectors.shape[1] - smallest + 1
        runs = torch.stack([vectors[:, place : place + num_runs] for place in range(smallest)], dim=2)
        states = self.norms[0](self.leaf(runs.flatten(2)) + self.skip(runs.mean(dim=2)))
        found = [self.enter(states) + self.of_size[0]]
        for number, half in enumerate(self.window_sizes[:-1]):
            if states.shape[1] <= half:
                break
            left, right = states[:, :-half], states[:, half:]
            states = self.norms[number + 1](self.merges[number](torch.cat([left, right], dim=-1)) + (left + right) / 2)
            found.append(self.enter(states) + self.of_size[number + 1])
        start, size = self._windows(word_ids.shape[1], word_ids.device)
        is_short = (start == 0) & (size == smallest) & (count < smallest)
        is_window = (start + size <= count) | is_short
        if self.sentences is not None:
            found.append(self.sentences(word_ids, count, is_word))
            long, *short = self.sentences.are_runs(word_ids.shape[1], count)
            if self.training:
                # A risky question is held to its strictest window, which at first may be any of a hundred. Some
                # questions are read as a whole alone, or a head stays at "always safe" for thousands of steps.
                is_cut = torch.rand(len(count), 1, device=count.device) >= WHOLE_ALONE
                is_window, *short = (windows & is_cut for windows in (is_window, *short))
            is_window = torch.cat([is_window, long, *short], dim=1)
        return self.reading(torch.cat(found, dim=1)), is_window

    def places(self, num_words: int, device) -> tuple[torch.LongTensor, torch.LongTensor]:
        """Return first word and size of each window in so many words, (windows,) each: all of the smallest size, then
        all of the next one, and so on; then the runs of the sentence encoder."""
        start, size = self._windows(num_words, device)
        if self.sentences is None:
            return start, size
        runs = [_run_starts(max(num_words, self.window_sizes[0]), *run, device) for run in RUNS]
        sizes = [torch.full_like(own, size) for own, (size, _) in zip(runs, RUNS)]
        return torch.cat([start, *runs]), torch.cat([size, *sizes])

    def _windows(self, num_words: int, device) -> tuple[torch.LongTensor, torch.LongTensor]:
        num_words = max(num_words, self.window_sizes[0])
        sizes = [size for size in self.window_sizes if size <= num_words]
        starts = [torch.arange(num_words - size + 1, device=device) for size in sizes]
        return torch.cat(starts), torch.cat([torch.full_like(own, size) for own, size in zip(starts, sizes)])

    @property
    def longest(self) -> int:
        """Words of the longest window."""
        return self.window_sizes[-1] if self.sentences is None else max(self.window_sizes[-1], RUNS[0][0])

    def alone(self, window_ids: torch.LongTensor, num_words: int, width: int) -> torch.LongTensor:
        """Return which window each of a question of `num_words` words is among those of its own words alone, which
        stand in `width` places at the front, (samples,)."""
        _, size = self._windows(num_words, window_ids.device)
        _, sizes = self._windows(width, window_ids.device)
        found = (sizes == size[window_ids.clamp(max=len(size) - 1)][:, None]).long().argmax(dim=1)
        return torch.where(window_ids < len(size), found, len(sizes))  # a run: the first of the longest

    def are_in(self, num_words: int, longest: int, device) -> torch.BoolTensor:
        """Return which windows of so many words a question of `longest` words has, too, (windows,)."""
        start, size = self._windows(num_words, device)
        is_in = start + size <= longest
        if self.sentences is None:
            return is_in
        runs = [_run_starts(num_words, *run, device) < _end_of_starts(longest, *run) for run in RUNS]
        return torch.cat([is_in, *runs])


class SentenceReader(nn.Module):
    """
    States of runs of words, by a sentence encoder that has read far more than any set of records shows.

    A run is read by itself. There are long ones, and short ones in which few other words stand around a question. The
    encoder stays as it is in training, which may keep what it reads (`known`): the runs of a set of records come back
    in every epoch.

    Args:
        safety_config: a [`SafetyConfig`].

    Attributes:
        known: run (ids as bytes) to its mean state; `None` keeps nothing.
    """

    def __init__(self, safety_config):
        super().__init__()
        size = safety_config.head_sentence_size
        self.encoder = BertModel(
            BertConfig(
                vocab_size=safety_config.head_vocab_size,
                hidden_size=size,
                num_hidden_layers=safety_config.head_sentence_layers,
                num_attention_heads=size // 32,
                intermediate_size=4 * size,
                max_position_embeddings=512,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ),
            add_pooling_layer=False,
        ).requires_grad_(False)
        self.norm = nn.LayerNorm(size)
        self.enter = _curved(size, safety_config.head_hidden_size)
        self.known: dict[bytes, torch.Tensor] | None = None

    def forward(self, word_ids: torch.LongTensor, count: torch.LongTensor, is_word: torch.BoolTensor) -> torch.Tensor:
        """Return states (samples, runs, hidden) of the first `count` (samples, 1) words (samples, words). Those that
        are none are not read."""
        num_samples = len(word_ids)
        if not num_samples:  # BERT reads no empty batch; left out, its calls would differ between ZeRO-3's processes
            word_ids, count, is_word = (one.new_zeros(1, one.shape[1]) for one in (word_ids, count, is_word))
        are_runs = self.are_runs(word_ids.shape[1], count)
        read = [self._read_runs(word_ids, count, is_word, are, *run) for are, run in zip(are_runs, RUNS)]
        return self.enter(self.norm(torch.cat(read, dim=1)))[:num_samples]

    def are_runs(self, num_words: int, count: torch.LongTensor) -> list[torch.BoolTensor]:
        """Return which runs in so many words hold words that no run before them does, (samples, runs) per size. A
        short run of a question that is no longer is that question's long one once more."""
        found = []
        for size, step in RUNS:
            start = _run_starts(num_words, size, step, count.device)
            is_run = (start == 0) | (start + size - step < count)
            found.append(is_run if size == RUNS[0][0] else is_run & (count > size))
        return found

    def _read_runs(self, word_ids, count, is_word, is_run, size: int, step: int) -> torch.Tensor:
        """Return the mean states of runs of one size, (samples, runs, encoder size); 0 for those that are none."""
        start = _run_starts(word_ids.shape[1], size, step, word_ids.device)
        ids, is_read = (_cut(one, start.tolist(), size) for one in (word_ids, is_word))
        end = (count - start).clamp(0, ids.shape[1]).flatten()[:, None] + 1
        # The last mark stands right behind the last word, so that what a row is filled up with changes nothing.
        is_last = torch.arange(ids.shape[1] + 2, device=ids.device) == end
        ids = F.pad(ids, (1, 1)).masked_fill(is_last, LAST)
        ids[:, 0] = FIRST
        is_read = F.pad(is_read, (1, 1)) | is_last
        is_read[:, 0] = True
        if torch.compiler.is_compiling():
            return self._read(ids, is_read).unflatten(0, is_run.shape)
        rows = is_run.flatten().nonzero()[:, 0]
        if not len(rows):  # ZeRO-3 asks every process for the same calls
            rows = rows.new_zeros(1)
        ids, is_read = ids[rows], is_read[rows]
        read = self._read(ids, is_read) if self.known is None else self._recall(ids, is_read, self.known)
        return read.new_zeros(is_run.numel(), read.shape[1]).index_copy(0, rows, read).unflatten(0, is_run.shape)

    @torch.no_grad()
    def _read(self, ids: torch.LongTensor, is_read: torch.BoolTensor) -> torch.Tensor:
        """Return the mean state of each run (runs, words), (runs, size)."""
        states = self.encoder(input_ids=ids, attention_mask=is_read.long()).last_hidden_state
        weights = is_read[..., None].to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1)

    def _recall(self, ids: torch.LongTensor, is_read: torch.BoolTensor, known: dict) -> torch.Tensor:
        """Return what `_read` does, and read only the runs that are not known yet."""
        if len(known) > MOST_KNOWN:
            known.clear()
        ends = (is_read * torch.arange(1, 1 + ids.shape[1], device=ids.device)).amax(dim=1).tolist()
        words = ids.masked_fill(~is_read, -1).int().cpu().numpy()
        runs = [run[:end].tobytes() for run, end in zip(words, ends)]
        new = {run: row for row, run in enumerate(runs) if run not in known}
        if new:
            rows = [*new.values()]
            known.update(zip(new, self._read(ids[rows], is_read[rows]).cpu()))
        return torch.stack([known[run] for run in runs]).to(ids.device)


def _run_starts(num_words: int, size: int, step: int, device) -> torch.LongTensor:
    return torch.arange(0, _end_of_starts(num_words, size, step), step, device=device)


def _end_of_starts(num_words: int, size: int, step: int) -> int:
    return max(num_words - (size - step), 1)


def _cut(words: torch.Tensor, starts: list[int], size: int) -> torch.Tensor:
    """Cut (samples, words) into (samples x runs, at most `size` words)."""
    width = min(size, words.shape[1])
    words = F.pad(words, (0, max(0, starts[-1] + width - words.shape[1])))
    return torch.stack([words[:, start : start + width] for start in starts], dim=1).flatten(0, 1)


def _curved(in_size: int, out_size: int) -> nn.Module:
    return nn.Sequential(
        FanInLinear(in_size, 2 * out_size), nn.GELU(), nn.Dropout(DROPOUT), FanInLinear(2 * out_size, out_size)
    )


class PictureConcepts(nn.Module):
    """
    What a picture shows as a whole, met by what a window asks about: `head_concepts` numbers of each, between 0 and 1,
    and their products.

    So a head learns from few pairs that a risk takes both. What is shown is read of the features' mean and maximum.

    Args:
        safety_config: a [`SafetyConfig`].
        key_size: width of the features.
    """

    def __init__(self, safety_config, key_size: int):
        super().__init__()
        hidden_size, number = safety_config.head_hidden_size, safety_config.head_concepts
        self.look = nn.Sequential(
            nn.LayerNorm(2 * key_size),
            FanInLinear(2 * key_size, 2 * hidden_size),
            nn.GELU(),
            nn.Dropout(MUCH_DROPOUT),
            FanInLinear(2 * hidden_size, number),
        )
        self.ask = FanInLinear(hidden_size, number)
        self.say = FanInLinear(number, hidden_size)

    def forward(
        self, states: torch.Tensor, features: torch.Tensor, mask: torch.BoolTensor | None = None
    ) -> torch.Tensor:
        """Return what windows (images, windows, hidden) find in features (images, features, key size), (images,
        windows, hidden). `mask` (images, features) says which of the features count."""
        return self.say(self.asked(states) * self.shown(features, mask)[:, None])

    def asked(self, states: torch.Tensor) -> torch.Tensor:
        """Return how far windows (images, windows, hidden) ask about each concept, (images, windows, concepts)."""
        return self.ask(states).sigmoid()

    def shown(self, features: torch.Tensor, mask: torch.BoolTensor | None = None) -> torch.Tensor:
        """Return how far the picture shows each concept, (images, concepts)."""
        if mask is None:
            mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        mask = mask[..., None]
        mean = torch.where(mask, features, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        most = features.masked_fill(~mask, torch.finfo(features.dtype).min).amax(dim=1)
        most = torch.where(mask.any(dim=1), most, 0.0)  # a tile that a picture lacks, whose NaN would reach gradients
        return self.look(torch.cat([mean, most], dim=-1)).sigmoid()

    def shown_without_each(self, features: torch.Tensor, mask: torch.BoolTensor) -> torch.Tensor:
        """Return what the picture shows without each of its features, (images, features, concepts)."""
        mask = mask[..., None]
        given = torch.where(mask, features, 0.0)
        left = mask.sum(dim=1, keepdim=True) - mask.long()
        mean = (given.sum(dim=1, keepdim=True) - given) / left.clamp(min=1)
        lowest = torch.finfo(features.dtype).min
        filled = F.pad(features.masked_fill(~mask, lowest), (0, 0, 0, 1), value=lowest)  # so that there are two
        most, place = filled.topk(2, dim=1)
        is_most = torch.arange(features.shape[1], device=features.device)[:, None] == place[:, :1]
        most = torch.where(left > 0, torch.where(is_most, most[:, 1:], most[:, :1]), 0.0)
        return self.look(torch.cat([mean, most], dim=-1)).sigmoid()


class SafetyWordHead(nn.Module):
    """
    Windows of the question's own words ask [s(1); h_s], and each has a verdict of its own.

    What a window attends to is scaled and shifted by its state, and read by linear heads: whether words matter depends
    on the picture and the other way round, while each logit stays an exact sum over what the picture shows.

    Attributes:
        tree: the windows' states, as wide as the cross-attention.
        concepts: what of the picture's the windows ask about; `None` for a head that attends alone.
    """

    def __init__(self, config):
        super().__init__()
        safety, key_size = config.safety_config, config.get_text_config().hidden_size
        hidden_size = safety.head_hidden_size
        self.num_heads, self.num_tokens = safety.num_attention_heads, safety.num_safety_tokens
        self.tree = WindowTree(safety)
        self.concepts = PictureConcepts(safety, key_size) if safety.head_concepts else None
        self.q_proj = FanInLinear(hidden_size, hidden_size)
        self.k_proj = FanInLinear(key_size, hidden_size)
        self.v_proj = FanInLinear(key_size, hidden_size)
        self.out_proj = FanInLinear(hidden_size, hidden_size)
        self.scale = nn.Linear(hidden_size, hidden_size)
        self.shift = nn.Linear(hidden_size, hidden_size)
        self.level_head = nn.Linear(hidden_size, len(safety.levels))
        self.category_head = RowwiseLinear(hidden_size, len(safety.categories))

    def forward(
        self,
        question_ids: torch.LongTensor,
        is_asked: torch.BoolTensor,
        keys: torch.Tensor,
        feature_mask: torch.BoolTensor | None = None,
        rows: torch.LongTensor | None = None,
    ) -> Windows:
        """
        Give each window of each image's question its logits.

        Args:
            question_ids: (samples, words), token ids of `safety_words.json`.
            is_asked: (samples, words), which of them belong to the question.
            keys, feature_mask, rows: as for [`SafetyHead`].
        """
        rows = torch.arange(len(keys), device=keys.device) if rows is None else rows
        joined, count = join_tokens(question_ids[..., None], is_asked)
        if self.training and not torch.compiler.is_compiling():
            return self._judge_by_length(joined[..., 0], count, keys, feature_mask, rows)
        states, is_window = self.tree(joined[..., 0], count)
        # A long question under many pictures is held once per sample at a time, not once per picture.
        step = len(rows) if torch.is_grad_enabled() else len(states)
        parts = []
        for part in (slice(start, start + step) for start in range(0, len(rows), step)):
            own_mask = None if feature_mask is None else feature_mask[part]
            parts.append(self._judge(states[rows[part]], is_window[rows[part]], keys[part], own_mask))
        return Windows.join(parts, dim=0)

    def _judge_by_length(self, word_ids, count, keys, feature_mask, rows) -> Windows:
        """Judge as `forward` does, questions of like length together: in a batch of training more than half of all
        windows would be padding of the shorter ones. There are always as many groups, some of them empty, for
        DeepSpeed's ZeRO-3 asks every process for the same calls."""
        num_words = max(word_ids.shape[1], self.tree.window_sizes[0])
        count, order = count[rows], count[rows, 0].argsort()
        parts = []
        for group in order.tensor_split(NUM_GROUPS):
            longest = max([self.tree.window_sizes[0], *count[group, 0].tolist()])
            states, is_window = self.tree(word_ids[rows[group], :longest], count[group])
            own_mask = None if feature_mask is None else feature_mask[group]
            places = self.tree.are_in(num_words, longest, word_ids.device)
            parts.append(self._judge(states, is_window, keys[group], own_mask, places))
        return Windows(*(column[order.argsort()] for column in Windows.join(parts, dim=0)))

    def windows(self, question_ids: torch.LongTensor, is_asked: torch.BoolTensor):
        """Return states and mask of [`WindowTree`], of the words that are asked, joined."""
        joined, count = join_tokens(question_ids[..., None], is_asked)
        return self.tree(joined[..., 0], count)

    def _judge(self, states, is_window, keys, feature_mask, places=None) -> Windows:
        """Judge windows that stand at the `places` (windows,) of a longer question's, as its own padding would."""
        readings = []
        for mask in [None] if feature_mask is None else feature_mask.unbind(1):
            read = self.read(states, keys, mask)
            own_windows = is_window if mask is None else is_window & mask.any(dim=1)[:, None]
            found = Windows(self.level_head(read).float(), self.category_head(read).float(), own_windows)
            readings.append(found if places is None else found.spread(places))
        return Windows.join(readings, dim=1)

    def attend(self, states: torch.Tensor, keys: torch.Tensor, mask: torch.BoolTensor | None) -> torch.Tensor:
        """Return what windows (images, windows, hidden) take from the keys, (images, windows, hidden)."""
        query, key, value = (
            self.split_heads(parts) for parts in (self.q_proj(states), self.k_proj(keys), self.v_proj(keys))
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask(mask, keys))
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def read(self, states: torch.Tensor, keys: torch.Tensor, mask: torch.BoolTensor | None) -> torch.Tensor:
        """Return what the linear heads read of windows (images, windows, hidden), (images, windows, hidden)."""
        read = self.attend(states, keys, mask) * self.share(states) + self.shift(states)
        return read if self.concepts is None else read + self.concepts(states, keys[:, self.num_tokens :], mask)

    def share(self, states: torch.Tensor) -> torch.Tensor:
        """Return how far a window's words ask for each part of what it attends to, between 0 and 1."""
        return self.scale(states).sigmoid()

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """Turn (images, length, hidden) into (images, heads, length, hidden / heads)."""
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def init_word_weights(module: nn.Module) -> bool:
    """Initialise as [`init_safety_weights`] does, for the modules of this file."""
    if isinstance(module, WindowTree):
        init.zeros_(module.no_word)
        init.zeros_(module.of_size)
    elif isinstance(module, PictureConcepts):
        # Few concepts are there, and fewer are asked about.
        init.constant_(module.get_parameter("look.4.bias"), RARE)
        init.constant_(module.ask.bias, RARE)
    else:
        return False
    return True
