"""The judges that need neither a model nor a key: our rules and the published keyword lists."""

from .base import TextJudge
from .matchers import published_matchers
from .rules import RulesJudge


def default_judges() -> list[TextJudge]:
    """Return the judges that every evaluation begins with, each under its own name."""
    return [RulesJudge(), *published_matchers()]
