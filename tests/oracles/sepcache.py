"""A cache of separators as lists: one row, one place of the text at a time, no tensor and no layer."""


class Row:
    """What one row stores: places of its text.

    marked(token, place) says what a separator is; a, s, w, c are the sizes of arXiv 2412.12094. With a window n, a
    token sees of what is stored the first ones, separators, and those less than n behind it.
    """

    def __init__(self, marked, a, s, w, c, window=None):
        self.marked, self.a, self.s, self.w, self.c, self.window = marked, a, s, w, c, window
        self.text, self.kept, self.dropped = [], [], False

    def forward(self, tokens):
        """Take in tokens; return the places that each of them sees."""
        if tokens and self.kept and len(self.kept) + len(tokens) > self.c:
            self.drop()
        found = []
        for token in tokens:
            self.text.append(token)
            self.kept.append(len(self.text) - 1)
            found.append([place for place in self.kept if self.sees(len(self.text) - 1, place)])
        return found

    def drop(self):
        local = self.kept[len(self.kept) - self.w :] if len(self.kept) > self.w else list(self.kept)
        older = self.kept[: len(self.kept) - len(local)]
        first = [place for place in older if place < self.a]
        separators = [place for place in older if place >= self.a and self.marked(self.text[place], place)]
        while len(separators) > self.s:
            separators.pop(0)
        now = first + separators + local
        self.dropped = self.dropped or now != self.kept
        self.kept = now

    def sees(self, query, place):
        if self.window is None:
            return True
        near = query - place < self.window
        return near or place < self.a or self.marked(self.text[place], place)

    def crop(self, count):
        """Take back the last tokens, none of which was followed by a drop."""
        del self.text[len(self.text) - count :]
        del self.kept[len(self.kept) - count :]
