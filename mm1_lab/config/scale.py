"""A scale translates a recipe in the paper's units into layers, widths, pixels, steps, batch sizes and resources."""

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from mm1_lab.config.base import Config, Count, Number, Rate, Ratio, Share, Weight, Whole, nearest
from mm1_lab.config.benchmark import BenchmarkConfig, Shots
from mm1_lab.config.recipe import Component
from mm1_lab.config.size import Attention, Pretrained, Size

Beta = Annotated[float, Field(ge=0, lt=1)]


class Optimiser(Config):
    """An optimiser with linear warm-up and cosine decay."""

    learning_rate: Rate
    """Peak learning rate."""
    steps: Count
    """Optimiser steps."""
    warmup_fraction: Number = Field(0.01, ge=0, lt=1)
    """Share of the steps; notes on the paper report 2,000 of 200,000."""
    min_lr_ratio: Ratio = 0.1
    """Final learning rate of the cosine schedule as a share of the peak."""
    weight_decay: Weight = 0.1
    """torch's AdamW multiplies it by the learning rate, so 0.1 is the λ = 0.1 η that notes on the paper report."""
    max_grad_norm: Number = Field(1.0, gt=0)
    """The gradient is clipped to this norm."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Of AdamW."""
    optimiser: Literal["adafactor", "adamw"] = "adamw"
    """`adafactor`: without its relative step sizes, at the schedule's learning rate; takes half of the memory."""

    @property
    def bytes_per_trained(self) -> float:
        """Of a trained parameter while it is trained: weight and gradient in fp32, and Adam's two moments, in place of
        which Adafactor keeps sums of rows and columns."""
        return 8.0 if self.optimiser == "adafactor" else 16.0


class EncoderTraining(Optimiser):
    """Contrastive or reconstructive pre-training of the encoder."""

    batch_size: int = Field(gt=1, le=10**8)
    """Image-caption pairs per step."""
    text: Size
    """Size of the text tower."""
    synthetic_share: Ratio = 0.5
    """Share of pairs with a dense caption when the recipe's encoder data is `dfn+vecap`."""


class Phase(Config):
    """A part of the decoder's pre-training in which all rows have the same length."""

    share: Share
    """Share of the stage's steps."""
    sequence_length: Count
    """Positions of a packed row."""
    batch_size: Count
    """Packed rows per step."""


class DecoderTraining(Optimiser):
    """Language-model pre-training of the decoder on text alone."""

    phases: tuple[Phase, ...] = Field(min_length=1)
    """In order; their shares of the steps are normalised."""
    prompt_loss_weight: Ratio = 1.0
    """Loss weight of tokens outside answers, in text that marks its answers."""

    def phase_steps(self) -> list[int]:
        """Steps per phase, proportional to the shares and rounded so that they add up to `steps`."""
        total = sum(phase.share for phase in self.phases)
        steps, share, start = [], 0.0, 0
        for phase in self.phases:
            share += phase.share
            end = round(share / total * self.steps)
            steps.append(end - start)
            start = end
        return steps


class MultimodalTraining(Optimiser):
    """Multimodal pre-training; `steps` correspond to the paper's 200,000."""

    batch_size: Count
    """Packed rows per step."""
    lr_multipliers: dict[Component, Weight] = Field(default_factory=dict)
    """Peak learning rate of a part relative to `learning_rate`. Default: 1."""


class SftTraining(MultimodalTraining):
    """Instruction tuning (section 5); `steps` correspond to 10,000, which notes on the paper report."""

    batch_size: Count
    """Conversations per step; they fill as many packed rows as they need."""
    min_lr_ratio: Ratio = 0.0
    optimiser: Literal["adafactor", "adamw"] = "adafactor"
    """Notes on the paper report Adafactor."""
    sequence_length: Count
    """Positions of a packed row."""
    max_images: Count = 16
    """Maximum number of images per row; each view of a picture counts as one."""


class EvaluationSettings(Config):
    """Few-shot evaluation."""

    shots: Shots = (0, 4, 8)
    """Numbers of demonstrations in the prompt."""
    questions: Count
    """Questions per benchmark; in the miniature world all `blocks` have equally many, at least one."""
    blocks: int = Field(8, ge=8, le=1_000_000)
    """Blocks of questions. Questions of a block share their demonstrations; confidence intervals resample blocks."""
    batch_size: Count
    """Sequences decoded at a time."""


class Resources(Config):
    """Resources of one stage."""

    cpus: Number = Field(1, ge=0.01, le=100_000)
    """Processors of a stage, by which Ray decides how many run at a time."""
    gpus: Number = Field(0, ge=0, le=100_000)
    """At most 1, as a process uses one GPU; a scale's `workers` train on several."""
    workers: Whole = 0
    """Data-loading processes. 0: the training process loads the batches itself, which suits small images."""
    micro_batch: Whole = 0
    """Rows of a step that a process computes at a time; the gradients add up to those of all its rows (gradient
    accumulation). 0: all, or as many as fit the scale's `hardware`. In decoder and multimodal training and instruction
    tuning. Changes results only by rounding; in a mixture of experts, also the balance loss, which is then that of each
    micro-batch."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Whether these stages compute activations again in the backward pass instead of storing them, which takes a third
    more operations if all parts are trained. `auto`: where by the plan less than half of a process's rows would fit the
    scale's `hardware` at a time (with `micro_batch`: where these would not). Changes results only by rounding."""
    evaluation_shards: Whole = 0
    """How many of an evaluation's workers divide a model among them, and answer the same questions together. 0: one, or
    as few as hold it on the scale's `hardware`. Changes results only by rounding."""

    @field_validator("gpus")
    @classmethod
    def _one_gpu(cls, gpus: float) -> float:
        if gpus > 1:
            raise ValueError(
                f"a process uses only one of {gpus:g} GPUs; set 1 (--set), and to train a stage on several, name its "
                f"size in the scale: `workers: {{SIZE: {gpus:g}}}`"
            )
        return gpus


class Gpu(NamedTuple):
    """From the manufacturer's data sheet: peak FLOPs per second of dense matrix products, and memory."""

    half: float
    """In bf16."""
    single: float
    """In fp32, which training does not round to TF32."""
    gigabytes: float


GPUS = {
    "a100": Gpu(312e12, 19.5e12, 80),
    "h100": Gpu(989e12, 67e12, 80),
    "h200": Gpu(989e12, 67e12, 141),
    "b200": Gpu(2250e12, 80e12, 180),
}


class Hardware(Config):
    """GPUs that a plan reckons with, and for whose memory `run` divides batches; not part of any identity."""

    gpu: Literal["a100", "h100", "h200", "b200"]
    """Their kind: memory and peak FLOPs."""
    count: Count = 1
    """Number of GPUs."""
    memory: Number | None = Field(None, gt=0, le=10_000)
    """Gigabytes per GPU. Default: those of the named one."""
    mfu: Share = 0.4
    """Expected model FLOPs utilisation: the share of the peak performance that the model's own FLOPs reach, where
    no activations are computed again. Hours contain the traffic of sharding only as far as it lowers this share."""

    def peak(self, precision: str) -> float:
        """FLOPs per second at a stage's `precision`."""
        gpu = GPUS[self.gpu]
        return gpu.single if precision == "32-true" else gpu.half

    @property
    def memory_bytes(self) -> float:
        """Memory of each GPU in bytes."""
        return 1e9 * (self.memory or GPUS[self.gpu].gigabytes)


class Scale(Config):
    """The concrete counterpart of a recipe; `--set` changes these fields. A file with `extends: NAME`, another scale,
    needs only what differs: tables are merged key by key, lists and values replaced."""

    encoders: dict[str, Size] = Field(default_factory=dict)
    """Encoders trained here, by name."""
    decoders: dict[str, Size] = Field(default_factory=dict)
    """Decoders trained here, by name."""
    upcycled: dict[str, str] = Field(default_factory=dict)
    """Mixture-of-experts decoders initialised from a pre-trained dense decoder: their names and the dense ones'."""
    pretrained_encoders: dict[str, Pretrained] = Field(default_factory=dict)
    """Pre-trained encoders by name; they take precedence over `encoders`."""
    pretrained_decoders: dict[str, Pretrained] = Field(default_factory=dict)
    """Pre-trained decoders by name. Each brings its own tokenizer."""
    base_decoder: str
    """The size that corresponds to the paper's 1.2B."""
    larger_decoder: str = ""
    """The size that corresponds to the paper's 2.9B, 2.4 times as large."""
    resolutions: dict[int, Count] = Field(min_length=1)
    """The paper's image sides and the pixels used here. Where they are the same, any others stand for themselves."""
    patch: Count
    """Side of a patch in pixels, of encoders trained here; a pre-trained one has its own."""
    image_tokens: dict[int, Count] = Field(min_length=1)
    """The paper's numbers of image tokens and those used here, which must be square numbers. Where they are the same,
    any others stand for themselves; your own data's rows are packed for the largest one here."""
    connector_width: Count
    """Inner width of the C-Abstractor (Honeybee: 1024) and of the resampler."""
    vocabulary: int = Field(ge=300, le=10_000_000)
    """Entries of the byte-level BPE trained on the user's text, 256 bytes included. The world has its own words."""
    sequence_length: Count
    """Positions of a packed row in multimodal pre-training, image tokens included."""
    max_images: Count = 16
    """Maximum number of images per row (section 4)."""
    encoder: EncoderTraining
    """Pre-training of the encoder."""
    short_encoder: Share = 1.0
    """Share of the encoder's steps for recipes with the `short` schedule."""
    decoder: DecoderTraining
    """Pre-training of the decoder."""
    train: MultimodalTraining
    """Multimodal pre-training."""
    sft: SftTraining | None = None
    """Instruction tuning, for recipes that include it."""
    evaluate: EvaluationSettings
    """The same for all arms."""
    benchmarks: tuple[BenchmarkConfig, ...] = ()
    """Benchmarks in addition to the data's own; those of the data file are appended."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Of training and evaluation: fp32, or bf16, whose trained weights are kept in fp32."""
    compile: bool = False
    """Whether training compiles the transformer layers (`torch.compile`)."""
    resources: Resources = Resources()
    """Resources per stage, or per worker of a stage."""
    workers: dict[str, Count] = Field(default_factory=dict)
    """Processes that train a stage together, one GPU each, by decoder size (encoder size for encoder pre-training); a
    pre-trained decoder may also be named by its folder or hub name. Default: 1. Not part of any identity."""
    hardware: Hardware | None = None
    """GPUs that a plan reckons with. `plan` and `run` refuse what they do not hold. Default: this machine, from its own
    measured speeds."""
    images_per_row: dict[str, Weight] = Field(default_factory=dict)
    """Approximate number of images per packed row of each source, for estimating the encoder's cost. Default: as many
    as fit, and none of `text`."""
    retries: Whole = 1
    """How often a failed stage is retried."""
    attention: Attention | None = None
    """How training keeps the documents of a packed row apart: `masked`, a mask over all pairs of positions; `varlen`,
    variable-length kernels (bf16 on a GPU). On a CPU without `compile`, documents are computed in blocks either way.
    Default: `varlen` with bf16 on GPUs, otherwise `masked`."""
    reuse_processes: bool = False
    """Whether a process runs many stages; suits short stages."""

    @property
    def packed_attention(self) -> Attention:
        """`attention`, or its default."""
        if self.attention is None:
            return "varlen" if self.precision == "bf16-mixed" and self.resources.gpus else "masked"
        return self.attention

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        for name, size in (*self.encoders.items(), ("encoder.text", self.encoder.text), *self.decoders.items()):
            step = 2 * size.heads if name in self.decoders else size.heads  # rotary positions turn pairs of values
            if size.width % step:
                raise ValueError(f"{name}: {size.heads} heads need a width divisible by {step} (it is {size.width})")
            if name not in self.decoders and size != Size(layers=size.layers, width=size.width, heads=size.heads):
                raise ValueError(f"{name}: an encoder has only `layers`, `width` and `heads`; leave the rest out")
        known = [*self.encoders, *self.decoders, *self.pretrained_decoders]
        for name in self.workers:
            if name not in known and "/" not in name:  # a folder or hub name, as an arm may name a decoder
                raise ValueError(f"workers: there is no size {name!r}{nearest(name, known)}")
        for name in self.upcycled:
            if name not in self.decoders:
                raise ValueError(f"upcycled: there is no decoder {name!r}{nearest(name, self.decoders)}")
        return self
