"""Language: vocabularies, texts, tasks, and figures of the models that read them."""

from lissome.language.bpe import Bpe, read_vocabulary
from lissome.language.corpus import Corpus, read_corpus
from lissome.language.perplexity import LengthPerplexity, perplexity_by_length
from lissome.language.tasks import TASKS, Task, task
from lissome.language.text import Text, split_tokens
from lissome.language.tokenfile import TokenFile, keep_tokens, read_tokens, write_tokens
from lissome.language.vocabulary import Bytes, Vocabulary, check_vocabulary, describe_vocabulary

__all__ = [
    "TASKS",
    "Bpe",
    "Bytes",
    "Corpus",
    "LengthPerplexity",
    "Task",
    "Text",
    "TokenFile",
    "Vocabulary",
    "check_vocabulary",
    "describe_vocabulary",
    "keep_tokens",
    "perplexity_by_length",
    "read_corpus",
    "read_tokens",
    "read_vocabulary",
    "split_tokens",
    "task",
    "write_tokens",
]
