"""What is wrong with a template, and where."""


class TemplateBroken(ValueError):
    """A template that does not compile, or that its variables do not fill.

    `line` counts in its source, or in that of `part` where a layout or partial is named.
    """

    def __init__(self, message: str, line: int | None = None, part: str | None = None) -> None:
        super().__init__(message)
        self.line, self.part = line, part
