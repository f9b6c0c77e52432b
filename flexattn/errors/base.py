"""What all errors have in common: a sentence, then at / why / fix."""

from __future__ import annotations


class FlexAttentionError(Exception):
    """Base of all errors raised by flexattn.

    Args:
        summary: One sentence with the user's function and the value.
        at: ``file:line: source text`` of the user's code, when there is one.
        why: Why it cannot be done.
        fix: What to write instead.

    >>> print(FlexAttentionError("no such mask.", why="it was never made.", fix="make it."))
    no such mask.
      why  it was never made.
      fix  make it.
    """

    def __init__(
        self, summary: str, *, at: str | None = None, why: str | None = None, fix: str | None = None
    ) -> None:
        lines = [summary]
        lines += [
            f"  {k}{' ' * (5 - len(k))}{v}"
            for k, v in (("at", at), ("why", why), ("fix", fix))
            if v
        ]
        super().__init__("\n".join(lines))
        self.summary, self.at, self.why, self.fix = summary, at, why, fix

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return _rebuild, (type(self), self.summary, self.at, self.why, self.fix)


def _rebuild(cls, summary, at, why, fix):  # type: ignore[no-untyped-def]
    return cls(summary, at=at, why=why, fix=fix)
