"""A number of a result, with what it is of, how sure it is, and what failures could have made of it."""

from collections.abc import Iterable

from pydantic.dataclasses import dataclass

from ..strict_data import STRICT, Count, Text, expect
from .rates import wilson_interval


@dataclass(frozen=True, config=STRICT)
class Figure:
    """One number. As JSON (`dataclasses.asdict`) and back it is the same, to the last bit.

    Attributes:
        name: such as `"attack_success_rate"`.
        value: over what did not fail; `None` where nothing can be counted.
        low, high: 95% interval; `None` where there is none, as of a single group.
        total: items that the figure is of, failed ones included; groups where groups count together.
        failed: those without an outcome: no answer, no verdict, or no judgement that could be read.
        count: of a share, the hits: `value` is `count / (total - failed)`.
        least, most: `value` if all failed ones had been at one end or at the other; `None` without failed ones.
        part: which items, such as `"type=SSU"`; `None` for all.
        judge: who judged the answers; `None` where nobody did.

    Raises:
        ValueError: a value is not as described.
    """

    name: Text
    value: float | None
    low: float | None
    high: float | None
    total: Count
    failed: Count = 0
    count: Count | None = None
    least: float | None = None
    most: float | None = None
    part: Text | None = None
    judge: Text | None = None

    def __post_init__(self):
        expect(self.failed <= self.total, "failed", f"a whole number from 0 to {self.total}", self.failed)
        known = self.total - self.failed
        expect(self.count is None or self.count <= known, "count", f"a whole number from 0 to {known}", self.count)
        for low, high in (("low", "high"), ("least", "most")):
            ends = (getattr(self, low), getattr(self, high))
            is_valid = ends == (None, None) or (None not in ends and ends[0] <= ends[1])
            expect(is_valid, f"({low}, {high})", "two rising numbers or two nulls", ends)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval, where there is one."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def share_to_dict(self) -> dict:
        """Return a share and what it rests on, as JSON-able data."""
        return {"count": self.count, "total": self.total, "share": self.value, "interval": self.interval}


def counted_share(name: str, hits: Iterable[bool | None]) -> Figure:
    """Return the share of hits with Wilson's interval, where every sample stands for itself.

    Args:
        hits: what came out of each sample; `None`, where nothing did, is not counted.
    """
    known = [bool(hit) for hit in hits if hit is not None]
    return share_of_counts(name, sum(known), len(known))


def share_of_counts(name: str, count: int, total: int) -> Figure:
    """Return `count` of `total` as a share with Wilson's interval; without samples it has neither."""
    if not total:
        return Figure(name, None, None, None, 0, count=0)
    return Figure(name, count / total, *wilson_interval(count, total), total, count=count)
