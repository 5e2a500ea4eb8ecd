"""A scale: how big. It turns a recipe in the paper's units into layers, widths, pixels, steps, batch and resources."""

from itertools import accumulate, pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mm1_lab.config.base import Config, nearest
from mm1_lab.config.benchmark import BenchmarkConfig, Shots, TextTask
from mm1_lab.config.pretrained import Pretrained
from mm1_lab.config.size import Size

MANY = 10**9
"""Of steps, rows, positions or questions: more than any training has had. Numbers that nobody can mean are refused
before anything is spent on them."""
Side = Annotated[int, Field(gt=0, le=100_000)]
"""Pixels, or tokens of an image."""
Workers = Annotated[int, Field(gt=0, le=100_000)]
Beta = Annotated[float, Field(ge=0, lt=1)]

Attention = Literal["masked", "varlen"]
"""How training keeps the documents of a packed row apart: by a mask over all pairs of positions, or by kernels for
sequences of various lengths, which only do the work of each document (in bf16 on a GPU; elsewhere one at a time)."""


class Optimiser(Config):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = Field(gt=0, le=1e6)
    """Peak rate."""
    steps: int = Field(gt=0, le=MANY)
    warmup_fraction: float = Field(0.01, ge=0, lt=1)
    """The paper warms up for 2,000 of 200,000 steps."""
    min_lr_ratio: float = Field(0.1, ge=0, le=1)
    """The cosine ends at this share of the peak."""
    weight_decay: float = Field(0.1, ge=0)
    """torch's AdamW multiplies it by the rate, so 0.1 is the paper's λ = 0.1 η."""
    max_grad_norm: float = Field(1.0, gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.95)


class EncoderTraining(Optimiser):
    """Pre-training of the encoder, contrastive or reconstructive."""

    batch_size: int = Field(gt=1, le=MANY)
    """Image-caption pairs a step."""
    text: Size
    """The text tower."""
    synthetic_share: float = Field(0.5, ge=0, le=1)
    """Share of the pairs with a dense caption where the recipe's encoder data is `dfn+vecap`."""


class Phase(Config):
    """A stretch of the decoder's pre-training with rows of one length."""

    share: float = Field(gt=0, le=1)
    """Of the stage's steps."""
    sequence_length: int = Field(gt=0, le=MANY)
    batch_size: int = Field(gt=0, le=MANY)


class DecoderTraining(Optimiser):
    """Language-model pre-training of the decoder on text alone."""

    phases: tuple[Phase, ...] = Field(min_length=1)
    prompt_loss_weight: float = Field(1.0, ge=0, le=1)
    """Loss weight of tokens that are not part of an answer, in text that marks answers."""

    def phase_steps(self) -> list[int]:
        """Steps of each phase: its share of the sum of all shares, rounded so that they add up to `steps`."""
        total = sum(phase.share for phase in self.phases)
        ends = [round(share / total * self.steps) for share in accumulate(phase.share for phase in self.phases)]
        return [end - start for start, end in pairwise([0, *ends])]


class MultimodalTraining(Optimiser):
    """Multimodal pre-training; `steps` stand for the paper's 200,000."""

    batch_size: int = Field(gt=0, le=MANY)
    """Packed rows a step."""
    lr_multipliers: dict[Literal["encoder", "connector", "decoder"], float] = Field(default_factory=dict)
    """Peak rate of a part, as a share of `learning_rate`; 1 where it is not named."""


class SftTraining(MultimodalTraining):
    """Instruction tuning (section 5); `steps` stand for the paper's 10,000."""

    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    optimiser: Literal["adafactor", "adamw"] = "adafactor"
    """The paper's is Adafactor; here without its own step sizes, at the rate of the schedule."""
    sequence_length: int = Field(gt=0, le=MANY)
    max_images: int = Field(16, gt=0, le=100_000)
    """Images in a row at most; each view of a picture is one."""


class EvaluationSettings(Config):
    """Few-shot evaluation."""

    shots: tuple[Shots, ...] = Field((0, 4, 8), min_length=1)
    questions: int = Field(gt=0, le=MANY)
    """Questions a benchmark."""
    blocks: int = Field(8, ge=8, le=1_000_000)
    """Blocks of questions; a block shares its demonstrations, and intervals resample blocks."""
    batch_size: int = Field(gt=0, le=MANY)
    """Sequences decoded at a time."""


class Resources(Config):
    """What one stage occupies."""

    cpus: float = Field(1, gt=0, le=100_000)
    gpus: float = Field(0, ge=0, le=100_000)
    workers: int = Field(0, ge=0, le=10_000)
    """Processes that load batches beside training; 0: training loads them itself, which is right for small images."""
    prefetch: int = Field(2, gt=0, le=10_000)
    """Batches that each of them has ready."""


class Hardware(Config):
    """GPUs that a plan reckons with; no part of any identity."""

    gpu: Literal["a100", "h100", "h200", "b200"]
    count: int = Field(1, gt=0, le=1_000_000)
    mfu: float = Field(0.4, gt=0, le=1)
    """Model FLOPs utilisation that is expected: the share of the peak that the model's own FLOPs get."""

    @property
    def peak(self) -> float:
        """FLOPs a second of dense matrix products in bf16, by the maker's data sheets."""
        return {"a100": 312e12, "h100": 989e12, "h200": 989e12, "b200": 2250e12}[self.gpu]

    @property
    def memory(self) -> float:
        """Bytes of one."""
        return {"a100": 80e9, "h100": 80e9, "h200": 141e9, "b200": 180e9}[self.gpu]


class Scale(Config):
    """The concrete side of a recipe; `--set` speaks these fields."""

    encoders: dict[str, Size] = Field(default_factory=dict)
    """Trained here, by name."""
    decoders: dict[str, Size] = Field(default_factory=dict)
    upcycled: dict[str, str] = Field(default_factory=dict)
    """Decoders with experts that start as copies of a pre-trained dense one: its name → the dense one's."""
    pretrained_encoders: dict[str, Pretrained] = Field(default_factory=dict)
    """Ready-made, by name; they go before those of `encoders`."""
    pretrained_decoders: dict[str, Pretrained] = Field(default_factory=dict)
    """Their tokenizer comes with them."""
    base_decoder: str
    """The size that stands for the paper's 1.2B."""
    larger_decoder: str = ""
    """The size that stands for the paper's 2.9B, 2.4 times as large."""
    resolutions: dict[int, Side] = Field(min_length=1)
    """The paper's image side → pixels here."""
    patch: int = Field(gt=0, le=100_000)
    image_tokens: dict[int, Side] = Field(min_length=1)
    """The paper's count → tokens here; each a square number."""
    connector_width: int = Field(gt=0, le=1_000_000)
    """Width inside the C-Abstractor (Honeybee: 1024)."""
    vocabulary: int = Field(ge=300, le=10_000_000)
    """Entries of the byte-level BPE that is trained on users' text, 256 bytes and more; the world has its own words."""
    sequence_length: int = Field(gt=0, le=MANY)
    max_images: int = Field(16, gt=0, le=100_000)
    """Images in a row at most (section 4)."""
    encoder: EncoderTraining
    short_encoder: float = Field(1.0, gt=0, le=1)
    """Share of the encoder's steps in the recipe's `short` schedule."""
    decoder: DecoderTraining
    train: MultimodalTraining
    sft: SftTraining | None = None
    """Instruction tuning, for recipes that ask for it."""
    evaluate: EvaluationSettings
    benchmarks: tuple[BenchmarkConfig, ...] = ()
    """Beside those of the data; a data file's are added to them."""
    text_tasks: tuple[TextTask, ...] = ()
    """Those that the data file names."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool = False
    resources: Resources = Resources()
    """Of a stage, or of each of its workers."""
    workers: dict[str, Workers] = Field(default_factory=dict)
    """Processes that train a stage together, each on a GPU of its own, by the size of its decoder (of an encoder's
    pre-training: of the encoder); 1 for those that are not named. No part of any identity."""
    hardware: Hardware | None = None
    """What a plan at this scale reckons with; without it, with this machine's own measured speeds alone."""
    images_per_row: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Of a packed row of each source, about: what a plan reckons the encoder's work by."""
    retries: int = Field(1, ge=0, le=1000)
    """How often a failed stage is tried again."""
    attention: Attention = "masked"
    gradient_checkpointing: bool = False
    """Training of decoder and model computes activations a second time instead of keeping them."""
    reuse_processes: bool = False
    """One process works through many stages; right where stages are short."""

    @model_validator(mode="after")
    def _workers_are_of_sizes(self) -> Self:
        known = [*self.encoders, *self.decoders, *self.pretrained_decoders]
        for name in self.workers:
            if name not in known:
                raise ValueError(f"workers: there is no size {name!r}{nearest(name, known)}")
        return self
