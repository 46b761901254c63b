"""Faults of a dataset, collected by kind, and the report on them."""

import reprlib
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Finding", "Findings", "Report", "show"]

NUM_EXAMPLES = 5  # printed of each kind

_repr = reprlib.Repr()
_repr.maxlist = _repr.maxdict = _repr.maxtuple = 8
_repr.maxstring = _repr.maxother = _repr.maxlong = 60


def show(value: Any) -> str:
    """A value of a file as it stands there, cut where it is long or deep."""
    return _repr.repr(value)


@dataclass
class Finding:
    """One kind of fault in one file: how often, the first few places with their values, the fix."""

    file: str
    kind: str
    fix: str
    is_missing_file: bool = False
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < NUM_EXAMPLES:
            # JSON can hold half a surrogate pair, which no terminal or log file takes.
            self.examples.append(example.encode("utf-8", "backslashreplace").decode("utf-8"))

    def __str__(self) -> str:
        more = [f"... and {self.count - len(self.examples)} more"]
        places = self.examples + (more if self.count > len(self.examples) else [])
        lines = [f"{self.file}: {self.kind} ({self.count})", *places, f"fix: {self.fix}"]
        return "\n    ".join(lines)


@dataclass
class Report:
    """What the checks found; printing it gives the text for users.

    Attributes:
        errors, warnings: the findings.
        summary: a line per dataset.
        class_names: by dataset, in the order of the model's outputs.
        max_objects: by dataset, the objects of its fullest image; crowds do not count.
    """

    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)
    class_names: dict[str, list[str]] = field(default_factory=dict)
    max_objects: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = list(self.summary)
        lines += [f"ERROR {finding}" for finding in self.errors]
        lines += [f"WARNING {finding}" for finding in self.warnings]
        kinds = "kind" if len(self.errors) == 1 else "kinds"
        lines.append(f"{len(self.errors)} {kinds} of errors, {len(self.warnings)} of warnings")
        return "\n".join(lines)

    def merge(self, other: "Report") -> None:
        """Appends another report's findings."""
        self.errors += other.errors
        self.warnings += other.warnings
        self.summary += other.summary
        self.class_names |= other.class_names
        self.max_objects |= other.max_objects

    def raise_if_errors(self) -> None:
        """Raises one error with the whole list, if there are errors.

        Raises:
            FileNotFoundError: all that is wrong is that files are missing.
            ValueError: there are other errors. Both carry the whole list.
        """
        if self.errors:
            only_missing = all(finding.is_missing_file for finding in self.errors)
            text = "the dataset cannot be used as it is\n" + "\n".join(map(str, self.errors))
            raise (FileNotFoundError if only_missing else ValueError)(text)


class Findings:
    """The findings on one file while its check runs, by kind."""

    def __init__(self, file: str):
        self.file = file
        self.errors: dict[str, Finding] = {}
        self.warnings: dict[str, Finding] = {}

    def error(self, kind: str, example: str, fix: str, is_missing_file: bool = False) -> None:
        self._add(self.errors, kind, example, fix, is_missing_file)

    def warning(self, kind: str, example: str, fix: str) -> None:
        self._add(self.warnings, kind, example, fix, False)

    def _add(self, group: dict, kind: str, example: str, fix: str, missing: bool) -> None:
        if kind not in group:
            group[kind] = Finding(self.file, kind, fix, missing)
        group[kind].add(example)

    def report(self) -> Report:
        return Report(list(self.errors.values()), list(self.warnings.values()))
