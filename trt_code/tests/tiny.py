"""A small network with random weights, and its text."""

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "and"]
WORDS += ["twenty", "thirty", "hundred"]
SENTENCES = [
    "one",
    "two hundred and three",
    "twenty five",
    "nine hundred and thirty seven and one and two",
    "four hundred and six",
]


def merges() -> list[str]:
    """The merges that join each word from its letters, in order."""
    found = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            found.append(f"{parts[0]} {parts[1]}\n")
            parts[:2] = [parts[0] + parts[1]]
    return list(dict.fromkeys(found))
