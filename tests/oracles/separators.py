"""Masks and caches of separators as Python lists, token by token: slow and obvious (arXiv 2412.12094, section 3)."""

from dataclasses import dataclass, field


def visible(tokens, ids, initial, near):
    """Which keys each query of a text sees, pair by pair."""
    return [
        [j <= i and (j < initial or tokens[j] in ids or i - j < near) for j in range(len(tokens))]
        for i in range(len(tokens))
    ]


@dataclass
class Row:
    """One text: [initial | separators | past window | local window], each a list of (position in the text, token)."""

    ids: set
    initial: int
    separators: int
    local: int
    capacity: int
    read: int = 0
    blocks: dict = field(default_factory=lambda: {"initial": [], "separators": [], "past": [], "local": []})

    def held(self):
        return [entry for block in self.blocks.values() for entry in block]

    def begin(self, tokens):
        """Announce tokens; return, for each of them, the entries that it sees."""
        if len(self.held()) + len(tokens) > self.capacity:
            self.drop()
        sees = []
        for token in tokens:
            entry = (self.read, token)
            self.read += 1
            if entry[0] < self.initial:
                self.blocks["initial"].append(entry)
            else:
                self.blocks["local"].append(entry)
            while len(self.blocks["initial"]) + len(self.blocks["local"]) > self.initial + self.local:
                self.blocks["past"].append(self.blocks["local"].pop(0))
            sees.append(self.held())
        return sees

    def drop(self):
        newer = [entry for entry in self.blocks["past"] if entry[1] in self.ids]
        kept = self.blocks["separators"] + newer
        self.blocks["separators"] = kept[max(0, len(kept) - self.separators) :]
        self.blocks["past"] = []
