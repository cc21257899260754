"""TRL's generation with a script in the place of the model: which prompts are solved always, never or half the time."""

from trl import GRPOTrainer

EASY, HARD, MIXED = "012", "345", "6789"  # what a prompt begins with


class Scripted:
    """In `GRPOTrainer._generate`'s place; of lengths of 1 to 3 tokens."""

    def __init__(self):
        self.calls = []  # the prompts of each

    def __call__(self, trainer: GRPOTrainer, prompts: list[str]) -> tuple:
        self.calls.append(list(prompts))
        texts = [self.text(prompt.removesuffix("="), row) for row, prompt in enumerate(prompts)]
        encode = trainer.processing_class.encode
        return list(map(encode, prompts)), list(map(encode, texts)), None, texts, None, {}, None, []

    @staticmethod
    def text(asked: str, row: int) -> str:
        is_right = asked[0] in EASY or (asked[0] in MIXED and row % 2)
        return (asked if is_right else "+") + "," * (row % 3)

    def into(self, monkeypatch) -> "Scripted":
        monkeypatch.setattr(GRPOTrainer, "_generate", lambda trainer, prompts: self(trainer, prompts))
        return self
