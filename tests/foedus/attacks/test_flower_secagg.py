"""Why sums here travel under masks of our own: Flower's SecAgg+ hides an update behind 28 bits.

Sites run flwr's own secaggplus_mod, untouched. The attacker is a server that keeps to the protocol
and one colluding site: it has every message, and the colluder's state. Flower folds the 256-bit
key of two sites into a 32-bit seed of MT19937, and since keys are base64 text, 4 of those bits
are always 0. One known word of the mask tells the seed, and the seed the whole mask.

The whole space of 2^28 takes about a minute with numpy on one core. The quick test searches a slice
of 2^20 seeds around the truth; the slow one searches all of it and is told nothing.
"""

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

SEED_BITS = 0x7F7F7F7F
FREE = [bit for bit in range(32) if SEED_BITS >> bit & 1]
"""The 28 bits of a seed that vary."""
LENGTH = 1000
EXAMPLES, MAX_WEIGHT, CLIPPING, TARGET, MODULUS = 100, 1000.0, 8.0, 2**22, 2**32
WEIGHT = round(EXAMPLES / MAX_WEIGHT * TARGET)
"""The first word under the mask; num_examples travels in the clear beside it."""
PRECISION = 1.001 * 2 * CLIPPING / WEIGHT
"""One step of Flower's own quantisation."""
VICTIM, OTHER, COLLUDER = 1, 2, 3


@dataclass
class Attacker:
    """What the server saw and the colluding site knows."""

    public_keys: dict[int, bytes] = field(default_factory=dict)
    masked: list[NDArray[np.int64]] = field(default_factory=list)
    seed_shares: list[bytes] = field(default_factory=list)
    colluder_secret: bytes = b""


@pytest.fixture(scope="module")
def update() -> NDArray[np.float64]:
    """The victim's secret."""
    return np.random.default_rng(1).normal(0.0, 0.5, LENGTH)


@pytest.fixture(scope="module")
def round_(update: NDArray[np.float64]) -> tuple[Attacker, bytes]:
    """One honest round of three sites; the attacker's view, and the victim's pairwise key (the truth)."""
    secagg = pytest.importorskip("flwr.client.mod.secure_aggregation.secaggplus_mod")
    from flwr.app import ConfigRecord, Context, Message, Metadata, RecordDict
    from flwr.common import Code, FitRes, Status, bytes_to_ndarray, ndarrays_to_parameters
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
    from flwr.compat.common.recorddict_compat import fitres_to_recorddict
    from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

    sites = {nid: Context(1, nid, {}, RecordDict(), {}) for nid in (VICTIM, OTHER, COLLUDER)}
    updates = {VICTIM: update, OTHER: np.zeros(LENGTH), COLLUDER: np.zeros(LENGTH)}

    def train(message: Message, context: Context) -> Message:
        parameters = ndarrays_to_parameters([updates[context.node_id]])
        result = FitRes(Status(Code.OK, ""), parameters, EXAMPLES, {})
        return Message(fitres_to_recorddict(result, keep_input=True), reply_to=message)

    def ask(nid: int, stage: str, **configs: Any) -> dict[str, Any]:
        record = ConfigRecord({"stage": stage, **configs})
        content = RecordDict({secagg.RECORD_KEY_CONFIGS: record})
        message = Message(content, metadata=Metadata(1, "", 0, nid, "", "", time.time(), 60.0, "train"))
        reply = secagg.secaggplus_mod(message, sites[nid], train)
        return dict(reply.content.config_records[secagg.RECORD_KEY_CONFIGS])

    setup = {"sample_num": 3, "share_num": 3, "threshold": 2, "clipping_range": CLIPPING}
    setup |= {"target_range": TARGET, "mod_range": MODULUS, "max_weight": MAX_WEIGHT}
    keys = {nid: ask(nid, "setup", **setup) for nid in sites}
    public = {str(nid): [found["pk1"], found["pk2"]] for nid, found in keys.items()}
    shares = {nid: ask(nid, "share_keys", **public) for nid in sites}
    masked = {}
    for nid in sites:
        inbox = [
            (source, text)
            for source, sent in shares.items()
            for target, text in zip(sent["dsts"], sent["ctxts"], strict=True)
            if target == nid
        ]
        sources, texts = zip(*inbox, strict=True)
        masked[nid] = ask(nid, "collect_masked_vectors", ctxts=list(texts), srcs=list(sources))
    unmasked = [ask(nid, "unmask", active_nids=list(sites), dead_nids=[]) for nid in sites]

    attacker = Attacker(
        public_keys={nid: found["pk1"] for nid, found in keys.items()},
        masked=[bytes_to_ndarray(text) for text in masked[VICTIM]["masked_params"]],
        seed_shares=[reply["shares"][reply["nids"].index(VICTIM)] for reply in unmasked],
        colluder_secret=sites[COLLUDER].state.config_records[secagg.RECORD_KEY_STATE]["sk1"],
    )
    secret = sites[VICTIM].state.config_records[secagg.RECORD_KEY_STATE]["sk1"]
    truth = generate_shared_key(
        bytes_to_private_key(secret), bytes_to_public_key(attacker.public_keys[OTHER])
    )
    return attacker, truth


def fold(key: bytes) -> int:
    """Flower's seed of a key."""
    return int(np.bitwise_xor.reduce(np.frombuffer(key, "<u4")))


def first_words(seeds: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """(n,), the first output of MT19937 under each seed (Matsumoto & Nishimura 1998)."""
    state, second = seeds.copy(), seeds
    for i in range(1, 398):
        state ^= state >> np.uint32(30)
        state *= np.uint32(1812433253)
        state += np.uint32(i)
        if i == 1:
            second = state.copy()
    mixed = (seeds & np.uint32(0x80000000)) | (second & np.uint32(0x7FFFFFFF))
    word = state ^ (mixed >> np.uint32(1)) ^ ((mixed & np.uint32(1)) * np.uint32(0x9908B0DF))
    word ^= word >> np.uint32(11)
    word ^= (word << np.uint32(7)) & np.uint32(0x9D2C5680)
    word ^= (word << np.uint32(15)) & np.uint32(0xEFC60000)
    return word ^ (word >> np.uint32(18))


def spread(numbers: NDArray[np.uint32], *, bits: list[int], fixed: int) -> NDArray[np.uint32]:
    """The bits of `numbers` laid into `bits` of a seed, lowest first; `fixed` gives the others."""
    seeds = np.full(numbers.shape, fixed & ~sum(1 << bit for bit in bits), np.uint32)
    for i, bit in enumerate(bits):
        seeds |= (numbers >> np.uint32(i) & np.uint32(1)) << np.uint32(bit)
    return seeds


def search(word: int, *, bits: list[int], fixed: int) -> tuple[list[int], float]:
    """Seeds whose first output is `word`, of all that differ from `fixed` in `bits`; and seeds tried a second."""
    began, found, block = time.perf_counter(), [], 2**14
    for start in range(0, 2 ** len(bits), block):
        seeds = spread(np.arange(start, start + block, dtype=np.uint32), bits=bits, fixed=fixed)
        found += seeds[first_words(seeds) == word].tolist()
    return found, 2 ** len(bits) / (time.perf_counter() - began)


def test_first_words_are_numpys() -> None:
    seeds = np.random.default_rng(0).integers(0, 2**32, 50, dtype=np.uint32)
    expected = [np.random.RandomState(int(seed)).randint(0, 2**32, dtype=np.uint32) for seed in seeds]
    assert first_words(seeds).tolist() == expected


def test_flower_seeds_have_28_bits() -> None:
    symmetric = pytest.importorskip("flwr.common.secure_aggregation.crypto.symmetric_encryption")
    asymmetric = pytest.importorskip("flwr.supercore.primitives.asymmetric")
    private, _ = asymmetric.generate_key_pairs()
    publics = [asymmetric.generate_key_pairs()[1] for _ in range(200)]
    seeds = [fold(symmetric.generate_shared_key(private, public)) for public in publics]
    assert int(np.bitwise_or.reduce(np.array(seeds))) == SEED_BITS
    assert SEED_BITS.bit_count() == 28


def test_flower_seed_is_the_folded_key() -> None:
    utils = pytest.importorskip("flwr.common.secure_aggregation.secaggplus_utils")
    key = bytes(range(44))
    expected = np.random.RandomState(fold(key)).randint(0, MODULUS - 1, (5,), dtype=np.int64)
    np.testing.assert_array_equal(utils.pseudo_rand_gen(key, MODULUS, [(5,)])[0], expected)


def unmask_known(attacker: Attacker) -> tuple[list[NDArray[np.int64]], int]:
    """The victim's vectors under the one mask not known, and that mask's first word."""
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
    from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

    shapes = [part.shape for part in attacker.masked]
    own = pseudo_rand_gen(combine_shares(attacker.seed_shares), MODULUS, shapes)
    with_colluder = generate_shared_key(
        bytes_to_private_key(attacker.colluder_secret), bytes_to_public_key(attacker.public_keys[VICTIM])
    )
    known = pseudo_rand_gen(with_colluder, MODULUS, shapes)
    # the victim's id is the lowest: it adds its own mask and takes the pairwise ones away
    left = [(m - o + k) % MODULUS for m, o, k in zip(attacker.masked, own, known, strict=True)]
    return left, int((WEIGHT - left[0][0]) % MODULUS)


def recover(left: list[NDArray[np.int64]], seed: int) -> NDArray[np.float64] | None:
    """The update if `seed` is the mask's; None where what is left is no quantised vector."""
    from flwr.common.secure_aggregation.quantization import dequantize

    mask = np.random.RandomState(seed)
    pairwise = [mask.randint(0, MODULUS - 1, part.shape, dtype=np.int64) for part in left]
    quantised = (left[1] + pairwise[1]) % MODULUS
    if quantised.max() > TARGET:
        return None
    return np.asarray(dequantize([quantised], CLIPPING, TARGET)[0] * TARGET / WEIGHT)


def test_server_and_one_site_recover_anothers_update_from_flowers_secagg(
    round_: tuple[Attacker, bytes], update: NDArray[np.float64]
) -> None:
    attacker, truth = round_
    left, word = unmask_known(attacker)
    found, seeds_a_second = search(word, bits=FREE[:20], fixed=fold(truth))
    assert found == [fold(truth)]
    assert 2**28 / seeds_a_second < 3600, "the whole space should take minutes, not hours"
    recovered = recover(left, found[0])
    assert recovered is not None
    assert np.abs(recovered - update).max() <= PRECISION


@pytest.mark.slow
def test_the_whole_key_space_of_flowers_secagg_is_searched_in_minutes(
    round_: tuple[Attacker, bytes], update: NDArray[np.float64]
) -> None:
    left, word = unmask_known(round_[0])
    found, _ = search(word, bits=FREE, fixed=0)
    recovered = [vector for seed in found if (vector := recover(left, seed)) is not None]
    assert len(recovered) == 1
    assert np.abs(recovered[0] - update).max() <= PRECISION


def test_the_same_search_has_no_foothold_on_our_masks() -> None:
    """Pair seeds fill 256 bits, and no seed near a folded one explains two words of the key stream."""
    masks = pytest.importorskip("foedus.secure.masks")
    pairs = [
        masks.pair_seed(secrets.token_bytes(32), session=1, number=0, site="a", other="b", asked=bytes(64))[0]
        for _ in range(200)
    ]
    bits = np.array([np.frombuffer(seed, np.uint8) for seed in pairs])
    assert np.bitwise_or.reduce(bits).tolist() == [0xFF] * 32
    assert np.bitwise_and.reduce(bits).tolist() == [0] * 32

    stream = masks.keystream(masks.derive(pairs[0], "narrow")).update(bytes(8))
    words = np.frombuffer(stream, "<u4").tolist()
    found, _ = search(words[0], bits=FREE[:20], fixed=fold(pairs[0]))
    outputs = [np.random.RandomState(seed).randint(0, 2**32, 2, dtype=np.uint32) for seed in found]
    assert words not in [output.tolist() for output in outputs]
