"""Changes that were made to a dataset, counted by kind, for people to read."""

from dataclasses import dataclass, field

__all__ = ["Changes"]

NUM_EXAMPLES = 3  # printed of each kind


@dataclass
class Change:
    """One kind of change: how often, and the first few places."""

    count: int = 0
    examples: list[str] = field(default_factory=list)


class Changes:
    """What was wrong and what was done about it; printing it gives a line for each kind."""

    def __init__(self) -> None:
        self.kinds: dict[tuple[str, str], Change] = {}

    def add(self, what: str, done: str, example: str = "", count: int = 1) -> None:
        """Counts a change.

        Args:
            what: the fault, as "box outside the image".
            done: what was done, as "clipped".
            example: the place with its value.
            count: how many at once.
        """
        change = self.kinds.setdefault((what, done), Change())
        change.count += count
        if example and len(change.examples) < NUM_EXAMPLES:
            # JSON can hold half a surrogate pair, which no terminal or log file takes.
            change.examples.append(example.encode("utf-8", "backslashreplace").decode("utf-8"))

    def counts(self) -> dict[str, int]:
        """How many of each fault, as {"box outside the image": 3}."""
        result: dict[str, int] = {}
        for (what, _), change in self.kinds.items():
            result[what] = result.get(what, 0) + change.count
        return result

    def merge(self, other: "Changes") -> None:
        """Appends another's."""
        for (what, done), change in other.kinds.items():
            mine = self.kinds.setdefault((what, done), Change())
            mine.count += change.count
            mine.examples = (mine.examples + change.examples)[:NUM_EXAMPLES]

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def __str__(self) -> str:
        lines = []
        for (what, done), change in self.kinds.items():
            lines.append(f"{change.count} x {what}: {done}")
            lines += [f"    {example}" for example in change.examples]
            if change.examples and change.count > len(change.examples):
                lines.append(f"    ... and {change.count - len(change.examples)} more")
        return "\n".join(lines)
