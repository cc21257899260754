"""What TRL is given to reward."""


def is_right(completions: list[str], digit: list[str], **_: object) -> list[float]:
    """1 where the response's first character is the digit that was asked for."""
    return [float(text.startswith(wanted)) for text, wanted in zip(completions, digit, strict=True)]
