"""lm-evaluation-harness (`lm_eval`) on a folder of transformers, read through a cache that keeps separators.

    python -m lissome.bridges.lm_eval --model lissome --model_args pretrained=FOLDER,capacity=800 --tasks NAME

A text is read `chunk` tokens at a time, counted from its own start, and the cache drops between two parts: a token sees
what is stored when its part begins, so the result does not depend on what else is in its batch. `generate_until` goes
through `generate()`, where the harness pads batches at the left, so that parts begin at the padding.
While nothing has been dropped, scores and texts are those of the harness's own `hf`.

SepLLM, arXiv 2412.12094: its mode of use without training, with the cache in prefill too.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lissome._checks import check_whole
from lissome._errors import LissomeError, UsageError

try:
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
    from tqdm import tqdm
except ImportError as error:
    raise UsageError(
        "lissome.bridges.lm_eval needs lm-eval; install it with: pip install 'lissome[lm-eval]'"
    ) from error

from lissome.bridges.chosen import chosen  # below: without lm-eval nothing else is to be asked for
from lissome.bridges.sepcache import SepCache

NAME = "lissome"
Text = tuple[int, ...]


@register_model(NAME)
class SepCacheLM(HFLM):
    """A model of transformers in lm_eval, whose key-value cache is a `SepCache`.

    Args:
        pretrained: a folder as `save_pretrained` or `lissome lm export` writes it, with its tokenizer; or a model, and
            then `tokenizer` beside it.
        cache: separators, sinks, fixed, fixed(8) or full, see `chosen.chosen`.
        separators: auto, paper:llama-3, paper:gpt-neox, or ids such as "13 11 30".
        initial: as the further sizes, of `SepCache`.
        separators_kept: see there.
        local: see there.
        capacity: see there.
        positions: text or cache; with cache say max_length too, for texts are cut at the model's trained length.
        sees: stored or window.
        chunk: tokens of a forward, in which a text is read.
        device: None: a GPU if there is one.
        further: of `lm_eval`'s own `hf`, such as batch_size, dtype, max_length, tokenizer.

    Raises:
        UsageError: an unknown cache, initial + separators_kept + local + chunk above the capacity, no such folder, no
            tokenizer in it, a model that is no decoder, and what `SepCache` refuses.

    `lm_eval.simple_evaluate(model="lissome", model_args={"pretrained": FOLDER, ...}, tasks=[...])` works once this
    module has been imported.
    """

    def __init__(
        self,
        pretrained: Any,
        cache: str = "separators",
        separators: Any = "auto",
        *,
        initial: int = 4,
        separators_kept: int = 64,
        local: int = 256,
        capacity: int = 800,
        positions: str = "text",
        sees: str = "stored",
        chunk: int = 128,
        device: str | None = None,
        **further: Any,
    ):
        check_whole("chunk", chunk)
        if isinstance(pretrained, str) and not Path(pretrained).is_dir():
            raise UsageError(
                f"pretrained is '{pretrained}', which is no folder; legal is one as save_pretrained or `lissome lm "
                "export` writes it"
            )
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        super().__init__(pretrained, device=device, **further)
        if self.backend != "causal":
            raise UsageError(f"'{pretrained}' reads and writes by two networks; legal is a decoder, such as a Llama")
        sizes = {"initial": initial, "separators_kept": separators_kept, "local": local, "capacity": capacity}
        ways = {"positions": positions, "sees": sees, "chunk": chunk}
        self.cache, self.chunk, self.kept = cache, chunk, sizes | ways
        self._make = chosen(cache, separators, self.tokenizer, **self.kept)
        self._make(self.config)  # what cannot be is said before anything is read
        self._used: list[tuple[float, int]] = []  # of each batch, mean and most entries a layer and row

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any, **further: Any) -> None:
        try:
            super()._create_tokenizer(pretrained, tokenizer, **further)
        except (OSError, ValueError, TypeError) as error:
            place = tokenizer if isinstance(tokenizer, str) else pretrained
            shown = f"'{place}'" if isinstance(place, str) else "the model's own folder"
            raise UsageError(
                f"{shown} holds no tokenizer that transformers can read; save it there by "
                "tokenizer.save_pretrained(folder), or name another folder by tokenizer=FOLDER"
            ) from error

    @contextlib.contextmanager
    def _attached(self) -> Iterator[SepCache]:
        """Let the model read through a new cache while inside."""
        half, kind = self.mixed_precision_dtype, self.device.type
        cache = self._make(self.config)
        with torch.no_grad(), torch.autocast(kind, half, enabled=half is not None), cache.attach(self.model):
            yield cache
        self._used.append((cache.mean_stored, cache.most_stored))

    def _read(self, ids: Tensor, first: int, present: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield logits (B, n, V) part by part, each after the column at which it begins.

        Args:
            ids: (B, T) int64, shorter texts filled up at the right.
            first: the first column whose logits are asked for; parts before it give those of their last column alone.
            present: (B, T) bool, False where a text is filled up, which must not count when a row drops; None: nowhere.
        """
        with self._attached() as cache:
            for start in range(0, ids.shape[1], self.chunk):
                part = ids[:, start : start + self.chunk]  # (B, n)
                end = start + part.shape[1]
                mask = None if present is None else present[:, :end].long()
                keep = 0 if end > first else 1  # 0 keeps all
                told = self.model(part, attention_mask=mask, past_key_values=cache, logits_to_keep=keep)
                yield start, told.logits

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Return all logits (B, T, V) of texts (B, T); the harness tries sizes of batches by it."""
        return torch.cat([logits for _, logits in self._read(inps, 0)], 1)

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **named: Any) -> Tensor:
        """Return texts (B, T) that go on from contexts, which are filled up at the left."""
        with self._attached() as cache:
            named |= {"past_key_values": cache, "prefill_chunk_size": self.chunk}
            return super()._model_generate(context, max_length, stop, **named)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Return log p of each continuation, and whether each of its tokens was the likeliest."""
        asked: dict[Text, list[tuple[int, Tensor]]] = {}  # what is read -> who asks, and for which tokens at its end
        for number, (_, context, continuation) in enumerate(requests):
            whole = (context + continuation)[-(self.max_length + 1) :]
            wanted = torch.tensor(whole[-len(continuation) :], device=self.device)
            asked.setdefault(tuple(whole[:-1]), []).append((number, wanted))
        size = override_bs or self.batch_size
        size = self._detect_batch_size() if size == "auto" else int(size)
        order = sorted(asked, key=lambda text: (-len(text), text))
        found = [(0.0, True)] * len(requests)
        bar = tqdm(total=len(requests), disable=disable_tqdm or self.rank != 0, desc="Running loglikelihood requests")
        for start in range(0, len(order), size):
            told = self._score(order[start : start + size], asked)
            for number, answer in told.items():
                found[number] = answer
                if (name := requests[number][0]) is not None:  # parts of a longer text have none
                    self.cache_hook.add_partial("loglikelihood", name, answer)
            bar.update(len(told))
        bar.close()
        return found

    def _score(self, texts: list[Text], asked: dict[Text, list[tuple[int, Tensor]]]) -> dict[int, tuple[float, bool]]:
        """Return number -> answer of all that is asked of a batch of texts, the longest first."""
        ids = torch.zeros(len(texts), len(texts[0]), dtype=torch.long)  # (B, T)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
        ids, ends = ids.to(self.device), torch.tensor([[len(text)] for text in texts], device=self.device)
        present = torch.arange(ids.shape[1], device=self.device) < ends  # (B, T)
        spans = [(row, len(text) - len(w), number, w) for row, text in enumerate(texts) for number, w in asked[text]]
        told = {number: (0.0, True) for _, _, number, _ in spans}
        begin = min(first for _, first, _, _ in spans)
        for start, logits in self._read(ids, begin, None if present.all() else present):
            scores = torch.log_softmax(logits, -1, dtype=self.softmax_dtype)  # (B, n, V)
            for row, first, number, wanted in spans:
                low, high = max(first, start), min(first + len(wanted), start + scores.shape[1])
                if low >= high:
                    continue
                own, targets = (
                    scores[row, low - start : high - start],
                    wanted[low - first : high - first],
                )  # (m, V), (m,)
                sum_, greedy = told[number]
                hit = bool((own.argmax(-1) == targets).all())
                told[number] = (sum_ + float(own.gather(1, targets[:, None]).sum()), greedy and hit)
        return told

    def get_model_info(self) -> dict[str, Any]:
        """Return what the harness writes beside its results: the cache, and how many entries it held."""
        means, mosts = zip(*self._used, strict=True) if self._used else ((0.0,), (0,))
        return {
            "model_num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "model_dtype": self.model.dtype,
            "cache": {"kind": self.cache, **self.kept},
            "cache_mean_stored": sum(means) / len(means),
            "cache_most_stored": max(mosts),
        }


def main() -> None:
    """Run `lm_eval` with a model named lissome beside its own.

    Raises:
        SystemExit: something was asked wrongly; exit code 2.
    """
    try:
        cli_evaluate()
    except LissomeError as error:
        print(f"{error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
