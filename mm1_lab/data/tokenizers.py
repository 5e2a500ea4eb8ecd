"""Tokenizers for users' text: byte-level BPE trained on that text, or any Hugging Face tokenizer from a folder.

Text is never encoded as a special token, even where it spells one, so image tokens always match a row's images.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from mm1_lab.config import RequestError, canonical_json
from mm1_lab.data.derived import make_once
from mm1_lab.data.preprocessing import IMAGE
from mm1_lab.files import load_json
from mm1_lab.formatting import first_line

SPECIAL = {"pad": "<pad>", "begin": "<begin>", "end": "<end>", "image": IMAGE}
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}[\p{L}\p{M}\x{200c}\x{200d}]*| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's, but marks and joiners belong to words: without the vowels of Hindi or Thai no whole word could be learnt."""
LONG_WORD = re.compile(r"\S{256}")
"""BPE training splits longer words, as its time grows quadratically with word length."""


class BackendTokenizer:
    """Implements the `Tokenizer` protocol with a tokenizer of the `tokenizers` library."""

    def __init__(self, backend: Backend, pad: int, begin: int, end: int, image: int) -> None:
        backend.encode_special_tokens = True
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self.size: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        self.pad = pad
        self.begin = begin
        self.end = end
        self.image = image
        self._special = [pad, begin, end, image]

    def encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_all(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Yields the ids of each text; uses all cores."""
        for encoding in self._backend.encode_batch(texts, add_special_tokens=False):
            yield encoding.ids

    def decode(self, ids: Iterable[int]) -> str:
        return self._backend.decode([i for i in ids if i not in self._special], skip_special_tokens=True)

    @property
    def backend(self) -> Backend:
        """A copy of the underlying tokenizer, safe to modify."""
        return Backend.from_str(self._backend.to_str())

    def has_vocabulary_of(self, other: "BackendTokenizer") -> bool:
        """Whether it splits all text as the other does; begin, end and padding may be other tokens."""
        return self._backend.to_str() == other._backend.to_str()

    @property
    def digest(self) -> str:
        return hashlib.sha256((canonical_json(self._special) + self._backend.to_str()).encode()).hexdigest()[:16]


def bpe_tokenizer(texts: Iterable[str], size: int, folder: Path) -> BackendTokenizer:
    """Loads `folder/tokenizer.json`; if missing, trains byte-level BPE of up to `size` entries on `texts` and saves it.

    Training is deterministic. The 256 bytes and the special tokens need 260 entries. Raises RequestError if the folder
    cannot be written to.
    """

    def train(path: Path) -> None:
        backend = Backend(models.BPE())
        words = pre_tokenizers.Split(Regex(WORDS), "isolated")
        bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_of])
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(SPECIAL.values()),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator((LONG_WORD.sub(r"\g<0> ", text) for text in texts), trainer)
        backend.save(str(path))

    path = folder / "tokenizer.json"
    make_once(path, train)
    backend = Backend.from_file(str(path))
    return BackendTokenizer(backend, **{name: backend.get_vocab()[token] for name, token in SPECIAL.items()})


def folder_tokenizer(folder: Path, rows: int | None = None) -> BackendTokenizer:
    """Loads a Hugging Face tokenizer from `folder`, without network access and without running code from the folder.

    A missing begin or padding token is replaced by the end token, as padding is masked by position, not by id. `rows`
    is the number of rows of the decoder's embedding table. Raises RequestError if the folder has no usable tokenizer.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not folder.is_dir():
        raise RequestError(f"tokenizer: {folder} is not a folder; give `bpe` or the folder of a Hugging Face tokenizer")
    try:
        # For a generic tokenizer class, AutoTokenizer would pick that of the decoder's model family instead.
        named = load_json(folder / "tokenizer_config.json").get("tokenizer_class")
        kind = PreTrainedTokenizerFast if named in GENERIC else AutoTokenizer
        loaded = kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        lack = f"cannot load a Hugging Face tokenizer ({first_line(error)})"
        raise RequestError(f"tokenizer: {folder}: {lack}; save the model's fast tokenizer there") from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, Backend):
        raise RequestError(f"tokenizer: {folder} has no tokenizer.json; save its fast version there")
    end = _first(loaded.eos_token_id, loaded.sep_token_id, -1)
    if end < 0:
        raise RequestError(f"tokenizer: {folder} has no end token; set eos_token in its tokenizer_config.json")
    backend = Backend.from_str(backend.to_str())
    entries = max(backend.get_vocab(with_added_tokens=True).values()) + 1
    if rows is not None and entries > rows:
        raise RequestError(
            f"tokenizer: {folder} has ids up to {entries - 1}, but its decoder's embedding has only {rows} rows; "
            "use the tokenizer that the decoder was trained with"
        )
    # Some, as Mistral's, put a space before every text; it stands for the text's own, with which answers begin.
    if backend.normalizer and backend.normalizer.normalize_str(" a") == "▁▁a":
        first = normalizers.Replace(Regex(r"\A (?!\z)"), "")
        backend.normalizer = normalizers.Sequence([first, backend.normalizer])
    # Also if it is there: as an ordinary token it would be found in text.
    backend.add_special_tokens([AddedToken(IMAGE, special=True, normalized=False)])
    return BackendTokenizer(
        backend,
        pad=_first(loaded.pad_token_id, end),
        begin=_first(loaded.bos_token_id, loaded.cls_token_id, end),
        end=end,
        image=backend.get_vocab()[IMAGE],
    )


def _first(*ids: int | None) -> int:
    return next(number for number in ids if number is not None)
