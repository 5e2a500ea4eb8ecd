"""Pre-training of the image encoder with any of the objectives (Table 1).

Contrastive (CLIP), on image-caption pairs; or reconstructive (AIM): each patch after a prefix of random length predicts
the pixels of the next. Attention is bidirectional within the prefix and causal after it, in row-major order, so that
the encoder can later be used with bidirectional attention. The class token precedes the first patch, as in CLIP.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPTextConfig, CLIPTextModel

from mm1_lab import team
from mm1_lab.config import EncoderStage, Size
from mm1_lab.data.batches import TensorBatch
from mm1_lab.data.mixture import Shuffled
from mm1_lab.data.pixels import NONE_ASKED, Decoded, TooManyBrokenPictures, decode, image_tensor
from mm1_lab.data.types import Data, Pairs, Picture, Pixels, Tokenizer
from mm1_lab.model import Encoder, build_encoder, load_weights
from mm1_lab.train.fit import finish, fit
from mm1_lab.train.module import LOSS, ROWS, TOKENS, WEIGHT, Losses
from mm1_lab.train.recorder import Recorder
from mm1_lab.train.sharding import compile_parts
from mm1_lab.train.stages import StageRun, new_encoder

CAPTION_LIMIT = 77
"""Maximum caption length, begin and end token included; longer captions are truncated."""
LENGTHS = 4
"""Number of length groups into which the text tower's captions are divided."""
LARGEST_SCALE = 100.0
HELD_OUT_PAIRS = 256
TEXT_TOWER = "text.safetensors"
VARIANCE_FLOOR = 1.0
"""In squared grey levels; keeps noise in uniform patches from being amplified."""


def train_encoder(run: StageRun[EncoderStage]) -> None:
    """Pre-trains an encoder, starting from the input `start` if there is one, and saves it without its text tower."""
    stage = run.stage
    if stage.objective == "contrastive":
        _train_contrastive(run)
    elif stage.objective == "reconstructive":
        _train_reconstructive(run)
    else:
        team.dismiss_others()
        recorder = Recorder(run.folder, [], 0, run.report)
        recorder.write_curve()
        finish(run, recorder, new_encoder(stage, run.data.tokenizer))


class DecodedPairs(NamedTuple):
    images: list[Pixels]
    """(side, side, 3) each."""
    captions: list[str]
    places: list[int]
    """Within the step."""
    decoded: Decoded
    """The account of broken images."""


def step_pairs(stage: EncoderStage, data: Data) -> Callable[[int], DecodedPairs]:
    """Reads pairs t · batch … (t + 1) · batch − 1 for step t, without broken images; in a team, this process's part.

    Of the first n pairs exactly ⌊n · synthetic share⌋ have dense captions.
    """
    pairs = data.pairs(stage.seed)
    if stage.distinct_pairs is not None:
        pairs = RepeatedPairs(pairs, stage.distinct_pairs, stage.seed)
    # users' usual and dense captions are of different pictures, each with an order of its own
    by_kind = stage.data.kind == "shards"
    count = stage.training.batch_size
    share = stage.synthetic_share

    def read(step: int) -> DecodedPairs:
        own = range(count)[team.own(count)]
        pictures, captions = [], []
        for place in own:
            index = step * count + place
            dense_before = math.floor(index * share)
            is_dense = math.floor((index + 1) * share) > dense_before
            if by_kind:
                index = dense_before if is_dense else index - dense_before
            picture, caption = pairs.pair(index, is_dense)
            pictures.append(picture)
            captions.append(caption)
        found, decoded = decode(pictures, stage.image_size)
        if not found:
            broken = "; ".join(decoded.broken[:10])
            raise TooManyBrokenPictures(f"none of {len(pictures)} images can be decoded: {broken}")
        texts = [captions[at] for at in found]
        places = [own[at] for at in found]
        return DecodedPairs(list(found.values()), texts, places, decoded)

    return read


class RepeatedPairs:
    """The first `distinct` pairs of others, in another order in each epoch; what belongs together stays together."""

    def __init__(self, pairs: Pairs, distinct: int, seed: int) -> None:
        self._pairs = pairs
        self.together = pairs.together
        self._order = Shuffled(math.ceil(distinct / self.together), "", seed)

    def pair(self, index: int, dense: bool) -> tuple[Picture, str]:
        group, member = divmod(index, self.together)
        _, place = self._order.find(group)
        return self._pairs.pair(place * self.together + member, dense)


def _tally(loss: Tensor, weight: Tensor | int, tokens: Tensor | int, rows: int) -> Tensor:
    """A tally with one row, made without waiting for the device."""
    tally = torch.zeros(1, 4, dtype=torch.float64, device=loss.device)
    for column, value in ((LOSS, loss.detach()), (WEIGHT, weight), (TOKENS, tokens), (ROWS, rows)):
        tally[:, column] = value  # by [0, column] a number would be copied to a GPU, and waited for
    return tally


@dataclass(frozen=True)
class PairBatch(TensorBatch):
    images: Tensor
    """uint8 (pairs, 3, side, side)"""
    tokens: Tensor
    """int64 (pairs, length), padded at the end."""
    ends: Tensor
    """int64 (pairs,): position of each caption's end token."""
    groups: Tensor
    """int64 (pairs,): equal for identical captions."""
    lengths: tuple[int, ...]
    """The length of the longest caption in each of LENGTHS groups of captions, sorted by length."""


def pair_batch(
    images: Sequence[Pixels], captions: Sequence[str], tokenizer: Tokenizer, decoded: Decoded = NONE_ASKED
) -> PairBatch:
    """Converts images, each (side, side, 3), and captions to tensors."""
    rows, groups = [], []
    for caption in captions:
        ids = tokenizer.encode(caption)[: CAPTION_LIMIT - 2]
        rows.append(torch.tensor([tokenizer.begin, *ids, tokenizer.end]))
        digest = sha256(caption.encode()).digest()
        groups.append(int.from_bytes(digest[:8], "big", signed=True))
    lengths = torch.tensor([len(row) for row in rows])
    # as many in each process of a team, which runs the text tower for one group after another; some may be empty
    sorted_groups = lengths.sort().values.tensor_split(LENGTHS)
    return PairBatch(
        images=image_tensor(images),
        tokens=pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad),
        ends=lengths - 1,
        groups=torch.tensor(groups),
        lengths=tuple(max(group.tolist(), default=1) for group in sorted_groups),
        decoded=decoded,
    )


class Contrastive(nn.Module):
    """An image encoder and CLIP's causal text transformer with a shared embedding space and CLIP's learnt temperature.
    An image is represented by the mean of its patch features, a caption by the output at the end token."""

    def __init__(self, encoder: Encoder, text: Size, vocabulary: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=text.width,
                intermediate_size=4 * text.width,
                num_hidden_layers=text.layers,
                num_attention_heads=text.heads,
                max_position_embeddings=CAPTION_LIMIT,
                hidden_act="gelu",
                pad_token_id=None,
                bos_token_id=None,
                eos_token_id=0,  # only used by CLIP's pooling, which is not called
            )
        )
        self.image_projection = nn.Linear(encoder.width, text.width, bias=False)
        self.text_projection = nn.Linear(text.width, text.width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Unit vectors (pairs, width) of the images and of the captions."""
        seen = self.encoder(batch.images).mean(dim=1)
        images = nn.functional.normalize(self.image_projection(seen))
        texts = nn.functional.normalize(self.text_projection(self._encode_text(batch)))
        return images, texts

    def _encode_text(self, batch: PairBatch) -> Tensor:
        """The text tower's output (pairs, width) at the end tokens. Grouping captions by length saves padding."""
        order = batch.ends.argsort()
        states = []
        for group, length in zip(order.tensor_split(len(batch.lengths)), batch.lengths, strict=True):
            some = group if len(group) else order[:1]  # the tower reads no empty batch
            hidden = self.text(batch.tokens[some, :length]).last_hidden_state
            rows = torch.arange(len(group), device=hidden.device)
            states.append(hidden[rows, batch.ends[group]])
        return torch.cat(states)[order.argsort()]

    @torch.no_grad()
    def before_step(self) -> None:
        """Limits the temperature itself, as CLIP does: limited only where it is used, it would have no gradient beyond
        its limit, and stay there."""
        self.log_scale.clamp_(max=math.log(LARGEST_SCALE))

    def loss(self, batch: PairBatch) -> Losses:
        """The contrastive loss, with negatives from the whole team, and its tally with one row."""
        pairs = len(batch.images)
        own, count = team.span(pairs)
        images, texts = self(batch)
        images = team.gather(images, own, count)
        texts = team.gather(texts, own, count)
        groups = team.gather(batch.groups, own, count)
        loss = contrastive_loss(images, texts, self.log_scale.exp(), groups, own)
        tally = _tally(loss * pairs, pairs, (batch.ends + 1).sum(), pairs)
        return Losses(loss * (pairs * team.size() / count), tally)


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, groups: Tensor, own: slice = slice(None)) -> Tensor:
    """Symmetric InfoNCE between unit vectors `images` and `texts` (pairs, width); `scale` multiplies their cosines.

    Pairs of the same group (pairs,) have the same caption, right for both: they are not each other's negatives. The
    mean is over the pairs `own`.
    """
    places = torch.arange(len(images), device=images.device)
    right = places[own]
    others = (groups[own][:, None] == groups) & (right[:, None] != places)

    def scores(first: Tensor, second: Tensor) -> Tensor:
        """(own, pairs)"""
        return (scale * first.float()[own] @ second.float().T).masked_fill(others, -torch.inf)

    with torch.autocast(images.device.type, enabled=False):  # products around 50 would be rounded to steps of 0.25
        of_images = scores(images, texts)
        of_texts = of_images.T if len(right) == len(images) else scores(texts, images)
    entropy = nn.functional.cross_entropy
    return (entropy(of_images, right) + entropy(of_texts, right)) / 2


def _train_contrastive(run: StageRun[EncoderStage]) -> None:
    """Saves the text tower apart, and notes held-out retrieval accuracy in the summary."""
    stage = run.stage
    data = run.data
    with team.only_in_first():
        network = Contrastive(new_encoder(stage, data.tokenizer), stage.training.text, data.tokenizer.size)
    if stage.start and team.is_first():
        start = run.inputs["start"]
        load_weights(network.encoder, start)
        network.load_state_dict(load_file(start / TEXT_TOWER), strict=False)
    if stage.compile:
        compile_parts(network.encoder)
    read = step_pairs(stage, data)

    def batch(step: int) -> PairBatch:
        found = read(step)
        return pair_batch(found.images, found.captions, data.tokenizer, found.decoded)

    recorder, network = fit(run, network, network.loss, ["pairs"], batch)
    weights = network.state_dict()
    text = {name: value.contiguous() for name, value in weights.items() if not name.startswith("encoder.")}
    save_file(text, run.folder / TEXT_TOWER)
    finish(run, recorder, network.encoder, retrieval=_held_out_retrieval(network, data, stage.image_size))


@torch.no_grad()
def _held_out_retrieval(network: Contrastive, data: Data, side: int) -> dict[str, float]:
    """Retrieval accuracy on held-out image-caption pairs, if there are any; a caption identical to the image's own
    counts as correct."""
    pixels, captions = [], []
    source = "captions" if "captions" in data.identity.sources else "synthetic"
    for document in data.held_out(source, HELD_OUT_PAIRS):
        if document.pictures:
            pixels.append(document.pictures[0].pixels(side))
            captions.append(document.text)
    if not pixels:
        return {}
    device = team.device()
    network.eval().to(device)  # Lightning has put it back on the CPU
    batch = pair_batch(pixels, captions, data.tokenizer).to(device)
    images, texts = network(batch)
    nearest = (images @ texts.T).argmax(dim=1)
    is_right = batch.groups[nearest] == batch.groups
    return {"pairs": len(pixels), "image_to_text": is_right.double().mean().item()}


@dataclass(frozen=True)
class ImageBatch(TensorBatch):
    """A batch of images, or a process's part of one."""

    images: Tensor
    """uint8 (n, 3, side, side)"""
    prefix: Tensor
    """(n,) length of each prefix in patches"""


def normalised_patches(images: Tensor, patch: int) -> Tensor:
    """uint8 (n, 3, side, side) → (n, patches, 3 · patch²), row-major, with mean 0 and variance 1 in each patch."""
    pixels = nn.functional.unfold(images.float(), kernel_size=patch, stride=patch).transpose(1, 2)
    variance, mean = torch.var_mean(pixels, dim=2, correction=0, keepdim=True)
    return (pixels - mean) / (variance + VARIANCE_FLOOR).sqrt()


class Reconstructive(nn.Module):
    """A ViT, and a head that predicts from its output at a patch the pixels of the next patch."""

    def __init__(self, trunk: Encoder, patch: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.patch = patch
        width = 4 * trunk.width
        self.head = nn.Sequential(nn.Linear(trunk.width, width), nn.GELU(), nn.Linear(width, 3 * patch**2))

    def forward(self, images: Tensor, prefix: Tensor) -> Tensor:
        """Predictions (n, patches, 3 · patch²) of each patch from those before it; `prefix` (n,) is in patches."""
        vision = self.trunk.vision
        embedded = vision.pre_layrnorm(vision.embeddings(self.trunk.normalise(images)))
        places = torch.arange(embedded.shape[1], device=prefix.device)
        causal = places[:, None] >= places
        in_prefix = places < prefix[:, None, None] + 1  # the class token, too
        mask = (causal | in_prefix)[:, None]
        states = vision.encoder(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        return self.head(vision.post_layernorm(states[:, :-1]))

    def loss(self, batch: ImageBatch) -> Losses:
        """The mean squared error over the patches after the prefix, and its tally with one row."""
        images = len(batch.images)
        patches = self.trunk.patches
        predictions = self(batch.images, batch.prefix).float()
        wanted = normalised_patches(batch.images, self.patch)
        errors = (predictions - wanted).square().mean(dim=2)
        is_after = torch.arange(patches, device=errors.device) >= batch.prefix[:, None]
        total = (errors * is_after).sum()
        count = is_after.sum()
        tally = _tally(total, count, images * patches, images)
        return Losses(total / team.mean(count), tally)


def _train_reconstructive(run: StageRun[EncoderStage]) -> None:
    """Saves the encoder without its last layers, with a newly initialised final norm."""
    stage = run.stage
    with team.only_in_first():
        network = Reconstructive(new_encoder(stage, run.data.tokenizer), stage.patch)
    read = step_pairs(stage, run.data)
    patches = network.trunk.patches

    def batch(step: int) -> ImageBatch:
        found = read(step)
        # for all of the step, so that a team draws as a single process does
        random = np.random.default_rng([stage.seed, step])
        prefixes = random.integers(1, patches, stage.training.batch_size)
        return ImageBatch(image_tensor(found.images), torch.from_numpy(prefixes[found.places]), decoded=found.decoded)

    recorder, network = fit(run, network, network.loss, ["images"], batch)
    encoder = build_encoder(stage.features, stage.patch, stage.image_size)
    trained = network.trunk.state_dict()
    kept = {name: trained[name] for name in encoder.state_dict() if ".post_layernorm." not in name}
    encoder.load_state_dict(kept, strict=False)
    finish(run, recorder, encoder)
