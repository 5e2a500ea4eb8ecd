"""What a GPU would be asked. None has been at hand, so these rows have goals and references, but no numbers, and code
that measures them does not exist: it could not have been tried."""

from benchmarks.measure import Budget, Row, unmeasured
from benchmarks.setting import Amounts

WHY = "no GPU has been at hand, so neither are there numbers nor is there code that measures them"
LLAVA = "transformers' LLaVA of the same sizes with flash attention, padded"
DECODERS = ("302M", "1.2B")


def measure(amounts: Amounts) -> list[Row]:
    """The rows for training with two decoders and for evaluation."""
    rows = []
    for decoder in DECODERS:
        what = f"training on a GPU, {decoder} decoder, ViT-L at 336 px, bf16, compiled, variable-length"
        rows += [
            unmeasured(what, "real tokens / s", LLAVA, Budget(ratio_at_least=2), WHY),
            unmeasured(what, "FLOP / s", "the GPU's peak", Budget(ratio_at_least=0.4), WHY),
        ]
    few_shot = unmeasured(
        "few-shot evaluation on a GPU", "questions / s", "transformers' generate, one question at a time", None, WHY
    )
    return [*rows, few_shot]
