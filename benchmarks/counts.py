"""What a GPU would meet, counted without one: waits, bytes held, bytes exchanged, and how experts' cost grows.

    python -m benchmarks.counts     rows of docs/scaling.md, "The first hour on a GPU", that name no test; minutes

A model of true size stands on a GPU that does not exist: its tensors have shapes only (`FakeTensorMode`).
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch
from weakref import WeakSet, finalize

import torch
from torch import distributed, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    Aimv2VisionConfig,
    CLIPVisionConfig,
    PreTrainedConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from benchmarks.setting import SWEEP
from mm1_lab import team
from mm1_lab.config import (
    WORLD_DATA,
    Hardware,
    MultimodalStage,
    Network,
    PretrainedDecoder,
    PretrainedEncoder,
    Scale,
    Size,
    load_scale,
    load_sweep,
    resolve,
)
from mm1_lab.data.batches import Batch
from mm1_lab.model import build_decoder, build_mm1, connector_activations, connector_flops, count_parameters, read_rows
from mm1_lab.model.decoder import sparse_layers
from mm1_lab.orchestrate.planning.cost import gpu_share
from mm1_lab.train.module import Losses, Training, language_loss
from mm1_lab.train.recorder import STEPS_BETWEEN_READS, Recorder
from mm1_lab.train.sharding import ShardedNetwork, prepare
from mm1_lab.weights.pretrained import text_shape, tower_shape

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "image_size": 336, "patch_size": 14}
SO400M = {"hidden_size": 1152, "num_hidden_layers": 27, "image_size": 384, "patch_size": 14}
TOWERS: dict[str, PreTrainedConfig] = {
    "CLIP ViT-L/336": CLIPVisionConfig(intermediate_size=4096, num_attention_heads=16, **LARGE),
    "SigLIP so400m/384": SiglipVisionConfig(intermediate_size=4304, num_attention_heads=16, **SO400M),
    "AIMv2-L/336": Aimv2VisionConfig(intermediate_size=2816, num_attention_heads=8, **LARGE),
}
DECODERS: dict[str, PreTrainedConfig] = {
    name: Qwen2Config(
        vocab_size=151_936, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=32_768,
    )
    for name, width, inner, layers, heads in (("Qwen2.5-0.5B", 896, 4864, 24, 14), ("Qwen2.5-1.5B", 1536, 8960, 28, 12))
}  # fmt: skip


class Waits(TorchDispatchMode):
    """Notes what a processor would wait for, and gives some result where it depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operation.overloadpacket.__name__
        if name == "_local_scalar_dense":
            self.seen.append(name)
            return 1
        if name == "nonzero":
            self.seen.append(name)
            return torch.zeros(len(args[0]) // 2, args[0].ndim, dtype=torch.long)
        if name == "bincount":
            self.seen.append(name)
            return torch.zeros(kwargs["minlength"], dtype=torch.long)
        if name in ("index", "index_put", "index_put_") and any(
            one is not None and one.dtype == torch.bool for one in args[1]
        ):
            self.seen.append(f"{name} by a mask")
            mask = args[1][0]
            some = torch.zeros(mask.numel() // 2, dtype=torch.long)
            flat = args[0].flatten(0, mask.ndim - 1)
            values = [flat[: len(some)]] if len(args) > 2 else []
            out = operation(flat, [some], *values)
            return out.view_as(args[0]) if values else out
        return operation(*args, **kwargs)


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Tensors made meanwhile have shapes only. They are on the processor, whose autograd this machine has, but what
    asks where they are is told that they are on a GPU."""
    with ExitStack() as stack:
        stack.enter_context(patch("mm1_lab.model.packed._has_flash_kernels", lambda embedded: True))
        stack.enter_context(patch("mm1_lab.team.is_read_at_once", lambda tensor: False))
        stack.enter_context(patch("mm1_lab.train.recorder.STEPS_BETWEEN_READS", STEPS_BETWEEN_READS | {"cpu": 20}))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def onto_gpu(model: nn.Module) -> None:
    """Replaces parameters and buffers by ones on the pretended GPU; what is tied stays so."""
    moved: dict[int, nn.Parameter] = {}
    for part in model.modules():
        for name, value in part.named_parameters(recurse=False, remove_duplicate=False):
            if id(value) not in moved:
                empty = torch.empty(value.shape, dtype=value.dtype, device="cpu")
                moved[id(value)] = nn.Parameter(empty, requires_grad=value.requires_grad)
            setattr(part, name, moved[id(value)])
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")


def rows_on_gpu(rows: int, length: int, images: int, image_tokens: int, side: int, documents: int) -> Batch:
    """Rows of text with as many images each, of as many documents."""

    def empty(*shape: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="cpu")

    return Batch(
        tokens=empty(rows, length),
        weights=empty(rows, length, dtype=torch.float32),
        documents=empty(rows, length),
        positions=empty(rows, length),
        images=empty(rows * images, 3, side, side, dtype=torch.uint8),
        sources=("captions",) * rows,
        image_counts=(images,) * rows,
        predicting=empty(rows * (length - images * image_tokens - 1)),
        real=empty(rows * length),
        bounds=empty(rows * documents + 1, dtype=torch.int32),
    )


@dataclass(frozen=True)
class Case:
    """A stage at true shapes, and how much of a step is computed at a time."""

    stage: MultimodalStage
    scale: Scale
    vocabulary: int
    rows: int
    images: int
    """Per row."""

    def training(self) -> Training:
        """The module that trains it; its network is on the meta device."""
        tokenizer: Any = SimpleNamespace(size=self.vocabulary, image=self.vocabulary - 1)
        with torch.device("meta"):
            model = build_mm1(self.stage, tokenizer)
        model.train()
        stage = self.stage.model_copy(update={"compile": False})
        prepare(stage, self.scale.resources, model.decoder, model.encoder, model.connector)
        names = list(self.stage.shares)

        def objective(batch: Batch) -> Losses:
            return language_loss(model.decoder, model(batch), batch, names)

        return Training(model, objective, self.stage.training, self.stage.precision)

    def batch(self) -> Batch:
        tokens = self.stage.connector.image_tokens
        return rows_on_gpu(self.rows, self.stage.sequence_length, self.images, tokens, self.stage.image_size, 8)


def real_case(tower: str, decoder: str, checkpointing: bool, rows: int, folder: Path, **changes: Any) -> Case:
    """A pre-trained tower and decoder as on the hub, in rows of 2,048 positions with nine images of 144 tokens; with
    `changes` of the stage."""
    scale = load_scale("paper", SWEEP.parent / "scales")
    base = resolve("base", load_sweep(SWEEP).base, scale, 0, WORLD_DATA).evaluation.model
    assert isinstance(base, MultimodalStage)
    described = []
    for name, config in ((tower, TOWERS[tower]), (decoder, DECODERS[decoder])):
        place = folder / name.replace("/", "-")
        place.mkdir(exist_ok=True)
        config.to_json_file(place / "config.json", use_diff=False)
        size = {"layers": config.num_hidden_layers, "width": config.hidden_size, "heads": config.num_attention_heads}
        described.append({"name": name, "folder": str(place), "digest": "", "family": config.model_type, "size": size})
    vision, text = TOWERS[tower], DECODERS[decoder]
    encoder = PretrainedEncoder.model_validate(
        described[0]
        | tower_shape(described[0]["size"], vision)
        | {"image_size": vision.image_size, "layer": None, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    )
    stage = base.model_copy(
        update={
            "encoder": encoder,
            "decoder": PretrainedDecoder.model_validate(described[1] | text_shape(described[1]["size"], text)),
            "image_size": vision.image_size,
            "sequence_length": 2048,
            "training": base.training.model_copy(update={"batch_size": rows}),
            **changes,
        }
    )
    images = 9
    resources = scale.resources.model_copy(update={"gradient_checkpointing": checkpointing})
    scale = scale.model_copy(
        update={"images_per_row": dict.fromkeys(stage.shares, float(images)), "resources": resources}
    )
    return Case(stage, scale, text.vocab_size, rows, images)


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is open, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen = WeakSet[torch.UntypedStorage]()

    def _forget(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operation(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, torch.Tensor):
                storage = one.untyped_storage()
                if storage not in self._seen:
                    self._seen.add(storage)
                    self.now += storage.nbytes()
                    finalize(storage, self._forget, storage.nbytes())
        self.most = max(self.most, self.now)
        return out


def step(module: Training, parts: list[Batch]) -> None:
    """The computation of one step as Lightning does it in half precision, without the optimiser's."""
    module.trainer = SimpleNamespace(optimizers=[module])  # type: ignore[assignment]
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.training_step(parts, 0)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)


def waits_of_a_step(case: Case) -> list[str]:
    """What a processor waits for in a step after which nothing is read."""
    module = case.training()
    with pretended_gpu():
        onto_gpu(module)
        batch = case.batch()
        recorder = Recorder(Path(), list(case.stage.shares), 1000, lambda progress: None)
        trainer: Any = SimpleNamespace(global_step=1)
        recorder.on_train_start(trainer, module)
        with Waits() as waits:
            step(module, [batch])
            recorder.on_train_batch_end(trainer, module)
    return waits.seen


def peak_beside_plan(case: Case, micro_batches: int = 1) -> tuple[float, float]:
    """Bytes of all tensors that live at once in a step, and those that the plan reckons with. Each of its micro-batches
    is the case's."""
    module = case.training()
    saved = connector_activations(module.network, case.stage.precision)
    network = Network(count_parameters(module.network), connector_flops(module.network), case.vocabulary, saved)
    module.network.requires_grad_(True)
    for part in case.stage.frozen:
        getattr(module.network, part).requires_grad_(False)
    trained = sum(one.numel() for one in module.network.parameters() if one.requires_grad)
    with pretended_gpu():
        onto_gpu(module)
        batch = case.batch()
        with Live() as live:
            step(module, [batch] * micro_batches)
    weights_and_moments = 4 * network.total + 8 * trained
    hardware = Hardware(gpu="h100", memory=10_000.0)
    resources = case.scale.resources.model_copy(update={"micro_batch": case.rows})
    scale = case.scale.model_copy(update={"resources": resources})
    cost = replace(case.stage.cost(network, scale), rows=micro_batches * case.rows)
    return weights_and_moments + float(live.most), gpu_share(cost, 1, scale, hardware).held


class Exchanged(TorchDispatchMode):
    """Bytes that a process receives, by what they are for and by the number of processes that take part."""

    OPERATIONS: ClassVar = {
        "_allgather_base_": "weights gathered",
        "_reduce_scatter_base_": "gradients scattered",
        "allreduce_": "gradients added up between nodes",
    }

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, float] = dict.fromkeys(self.OPERATIONS.values(), 0.0)

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = self.OPERATIONS.get(operation.overloadpacket.__name__)
        if name:
            whole = max((one for one in tree_leaves(args[:2]) if isinstance(one, torch.Tensor)), key=torch.numel)
            if whole.numel() > 1000:  # not a count or a norm
                self.bytes[name] += whole.nbytes * (2 if name.endswith("nodes") else 1)
        return operation(*args, **(kwargs or {}))


def bytes_exchanged(micro_batches: int, processes: int = 16, per_node: int = 8) -> tuple[dict[str, float], int]:
    """Of one step of a decoder in half precision, for a process of nodes that do not exist, and its parameters.

    What a process has itself counts, too: with many processes that is a small share.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    scale = load_scale("paper", SWEEP.parent / "scales")
    training = scale.decoder.model_copy(update={"steps": 1})
    size = Size(layers=4, width=256, heads=4)
    distributed.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    try:
        alike = patch.object(team, "numbers", lambda number: [number] * processes)
        with alike, patch.dict(os.environ, {"LOCAL_WORLD_SIZE": str(per_node)}):
            decoder = build_decoder(size, 256, 64)
            parameters = sum(one.numel() for one in decoder.model.layers.parameters())

            def objective(batch: Batch) -> Losses:
                states = read_rows(decoder, decoder.get_input_embeddings()(batch.tokens), batch)
                return language_loss(decoder, states, batch, ["captions"])

            module = Training(decoder, objective, training, "bf16-mixed")
        trainer = SimpleNamespace(optimizers=[torch.optim.AdamW(module.parameters(), foreach=True)])
        module.trainer = trainer  # type: ignore[assignment]
        one = rows_on_gpu(1, 64, 0, 0, 1, 1)
        one = replace(
            one,
            tokens=torch.zeros_like(one.tokens),
            weights=torch.ones_like(one.weights),
            documents=torch.ones_like(one.documents),
            positions=torch.arange(64)[None],
            predicting=torch.arange(63),
            real=torch.arange(64),
            bounds=torch.tensor([0, 64], dtype=torch.int32),
        )
        with Exchanged() as exchanged:
            with torch.autocast("cpu", torch.bfloat16):
                loss = module.training_step([one] * micro_batches, 0)
            loss.backward()
        return exchanged.bytes, parameters
    finally:
        distributed.destroy_process_group()


def seconds_of_experts(experts: int, tokens: int = 512) -> float:
    """Of forward and backward pass of a layer whose tokens choose two of `experts`, on a core."""
    torch.manual_seed(0)
    decoder = build_decoder(Size(layers=1, width=256, heads=4, experts=experts, experts_every=1), 64, tokens)
    mlp = sparse_layers(decoder)[0].mlp
    inputs = torch.randn(1, tokens, 256, requires_grad=True)
    took = []
    for _ in range(5):
        decoder.zero_grad()
        started = time.process_time()
        mlp(inputs).sum().backward()
        took.append(time.process_time() - started)
    return min(took)


def seconds_to_describe(name: str) -> tuple[float, int]:
    """To build a decoder of the paper's scale on the meta device, and its parameters."""
    size = load_scale("paper", SWEEP.parent / "scales").decoders[name]
    started = time.process_time()
    with torch.device("meta"):
        decoder = build_decoder(size, 32_000, 4096)
    return time.process_time() - started, sum(parameter.numel() for parameter in decoder.parameters())


def seconds_to_start(name: str, processes: int) -> float:
    """Core-seconds that the first of so many processes, of which the others do not exist, takes to make its shards of a
    newly initialised decoder of the paper's scale."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    size = load_scale("paper", SWEEP.parent / "scales").decoders[name]
    distributed.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    try:
        with patch.object(team, "numbers", lambda number: [number] * processes):
            started = time.process_time()
            decoder = build_decoder(size, 32_000, 4096)
            ShardedNetwork(nn.Sequential(decoder), decoder, "bf16-mixed")
            return time.process_time() - started
    finally:
        distributed.destroy_process_group()


def main() -> None:
    """Prints every row."""
    rows: list[tuple[str, str, str]] = []
    with TemporaryDirectory() as folder:
        small = real_case("CLIP ViT-L/336", "Qwen2.5-0.5B", True, 2, Path(folder))
        rows.append(("waits for the GPU in a step", str(len(waits_of_a_step(small))), "0"))
        cases: list[tuple[str, str, str, dict[str, Any]]] = []
        for tower in TOWERS:
            cases += [(tower, decoder, "", {}) for decoder in DECODERS]
        cases.append((*cases[0][:2], ", frozen, at 896 px", {"frozen": ("encoder",), "image_size": 896}))
        for tower, decoder, how, changes in cases:
            peak, planned = peak_beside_plan(real_case(tower, decoder, True, 4, Path(folder), **changes))
            counted = f"{peak / 1e9:.2f} GB, plan {planned / 1e9:.2f} GB ({planned / peak - 1:+.1%})"
            rows.append((f"peak of live tensors, {tower}{how} and {decoder}, 4 rows", counted, "±10%"))
    for parts in (1, 4):
        exchanged, parameters = bytes_exchanged(parts)
        for name, count in exchanged.items():
            rows.append((f"bytes a parameter, {parts} micro-batches: {name}", f"{count / parameters:.2f}", ""))
    few, many = seconds_of_experts(4), seconds_of_experts(64)
    rows.append(("64 experts beside 4, same FLOPs, one core", f"{many / few:.2f} ×", "2 ×"))
    seconds, parameters = seconds_to_describe("3B-MoE")
    rows.append((f"{parameters / 1e9:.1f}B parameters on the meta device", f"{seconds:.1f} s", "60 s"))
    rows.append(("1.2B from scratch, the first of 64 processes", f"{seconds_to_start('1.2B', 64):.1f} core-s", "60 s"))
    for what, counted, limit in rows:
        print(f"{what:70} {counted:42} {limit}")


if __name__ == "__main__":
    main()
