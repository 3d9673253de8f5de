"""How far the picture alone, or the question alone, could get: the best possible predictor, from the labels."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable

from .pairs import Pair


def by_picture(pair: Pair) -> Hashable:
    """Return what a classifier of the picture alone sees."""
    return pair.picture.sha256


def by_text(pair: Pair) -> Hashable:
    """Return what a classifier of the question alone sees."""
    return pair.wording.text


def best_shortcut(pairs: Iterable[Pair], seen: Callable[[Pair], Hashable]) -> float:
    """
    Return the best balanced accuracy of any classifier that sees nothing but `seen(pair)`, in 0.5 to 1.

    It flags a picture, or a question, exactly where this gains more of the risky pairs than it loses of the safe ones;
    it knows the labels, so nothing that is trained does better. No pairs of either kind: 0.5.
    """
    risky: Counter[Hashable] = Counter()
    safe: Counter[Hashable] = Counter()
    for pair in pairs:
        (risky if pair.safety_level else safe)[seen(pair)] += 1
    if not risky or not safe:
        return 0.5
    share = 1 / risky.total(), 1 / safe.total()
    return 0.5 * sum(max(risky[key] * share[0], safe[key] * share[1]) for key in risky.keys() | safe.keys())
