"""GPT: exact likelihoods against sums over all rows and against a transformer written without a batch."""

import itertools
import math

import pytest
import torch

from collapse.data import Batch, MarkovData
from collapse.models import GPT
from collapse.nn import Transformer
from collapse.nn.attention import rotate, rotations
from collapse.seeding import generator, keyed_rng

TINY = {"layers": 2, "heads": 2, "width": 16}


def batch_of(x):
    n = len(x)
    return Batch(x, None, torch.zeros(n, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64), torch.arange(n))


def made(*args, **kwargs):
    """Return a model whose weights are large enough for every one of them to matter."""
    with keyed_rng(3):
        gpt = GPT(*args, **TINY | kwargs)
        with torch.no_grad():
            for parameter in gpt.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return gpt.eval()


def tokens(rows, length, vocabulary, seed=0):
    return torch.randint(vocabulary, (rows, length), generator=generator(seed), dtype=torch.int32)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize(("vocabulary", "length"), [(2, 6), (3, 4), (5, 1)])
def test_probabilities_of_all_rows_have_a_sum_of_one(positions, vocabulary, length):
    gpt = made(vocabulary, length, positions=positions).double()
    rows = torch.tensor(list(itertools.product(range(vocabulary), repeat=length)))
    with torch.no_grad():
        log_probs = gpt.log_prob(rows)
    assert len(rows) == vocabulary**length
    assert float(log_probs.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert float(log_probs.std()) > 0.1  # not all alike
    torch.testing.assert_close(gpt.token_log_probs(rows).detach().sum(1), log_probs, rtol=0, atol=0)
    torch.testing.assert_close(gpt.loss(batch_of(rows)).detach(), -log_probs, rtol=0, atol=0)
    torch.testing.assert_close(gpt.outputs(batch_of(rows))["loss"].detach(), -log_probs, rtol=0, atol=0)


def by_hand(gpt, row):
    """Return log p(row), one position, head and earlier position at a time, with rotations as complex factors."""
    net, width, heads = gpt.network, 16, 2
    half = width // heads // 2
    theta = 10_000 ** (-torch.arange(half, dtype=torch.float64) / half)

    def norm(x, layer):
        return (x - x.mean()) / (x.var(correction=0) + layer.eps).sqrt() * layer.weight

    def turned(x, place):
        z = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones(half).double(), place * theta)
        return torch.cat([z.real, z.imag])

    inputs = [gpt.vocabulary, *row[:-1].tolist()]
    states = [net.embedding.weight[token] for token in inputs]
    if net.positions is not None:
        states = [state + net.positions.weight[place] for place, state in enumerate(states)]
    for block in net.blocks:
        parts = [
            (block.attention.qkv.weight @ norm(state, block.attention_norm)).view(3, heads, -1) for state in states
        ]
        after = []
        for place, state in enumerate(states):
            mixed = []
            for head in range(heads):
                seen = parts[: place + 1]
                q, ks = parts[place][0, head], [part[1, head] for part in seen]
                if net.positions is None:
                    q, ks = turned(q, place), [turned(k, other) for other, k in enumerate(ks)]
                weights = torch.stack([q @ k / math.sqrt(2 * half) for k in ks]).softmax(0)
                mixed.append(sum(weight * part[2, head] for weight, part in zip(weights, seen, strict=True)))
            state = state + block.attention.output.weight @ torch.cat(mixed)
            inner = block.mlp[0].weight @ norm(state, block.mlp_norm)
            after.append(state + block.mlp[2].weight @ (inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))))
        states = after
    logits = [net.embedding.weight[: gpt.vocabulary] @ norm(state, net.norm) for state in states]
    return sum(one.log_softmax(0)[token] for one, token in zip(logits, row.tolist(), strict=True))


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_log_prob_is_that_of_a_transformer_written_out(positions):
    gpt = made(7, 9, positions=positions).double()
    for row in tokens(3, 9, 7):
        torch.testing.assert_close(gpt.log_prob(row[None])[0], by_hand(gpt, row), rtol=1e-6, atol=0)


def test_a_token_changes_the_probabilities_of_itself_and_of_those_after_it():
    gpt, row = made(7, 9), tokens(1, 9, 7)
    other = row.clone()
    other[0, 4] = (row[0, 4] + 1) % 7
    changed = (gpt.token_log_probs(row) != gpt.token_log_probs(other))[0]
    assert changed.tolist() == [False] * 4 + [True] * 5


def test_rotated_products_depend_on_distances_alone():
    q, k = torch.randn(2, 8, generator=generator(1), dtype=torch.float64)
    table = rotations(torch.arange(50), 8)
    queries, keys = (rotate(part.expand(50, 8), *table) for part in (q, k))
    products = queries @ keys.T
    for distance in (0, 3, 20):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=0, atol=1e-5)
    assert float((products[0, :10] - products[0, 0]).abs().max()) > 0.1


def test_the_loss_of_a_row_does_not_depend_on_its_neighbors():
    gpt, x = made(7, 9).double(), tokens(6, 9, 7)
    whole = gpt.loss(batch_of(x))
    torch.testing.assert_close(torch.cat([gpt.loss(batch_of(row[None])) for row in x]), whole, rtol=1e-12, atol=0)


def test_a_batch_gives_the_latent_it_was_read_from():
    gpt, x = made(7, 9), tokens(4, 9, 7)
    latent = gpt.outputs(batch_of(x))["latent"]
    begun = torch.cat([torch.full((4, 1), 7), x[:, :-1].long()], 1)
    logits, hidden = gpt.network(begun)
    torch.testing.assert_close(latent, hidden.mean(1))
    torch.testing.assert_close(logits, hidden @ gpt.network.embedding.weight[:7].T)
    assert gpt.exposes == {"latent"}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_gives_the_same_gradients(dropout):
    x, gradients = batch_of(tokens(5, 9, 7)), []
    for checkpointing in (False, True):
        gpt = made(7, 9, dropout=dropout, checkpointing=checkpointing).train()
        with keyed_rng(8):
            gpt.loss(x).mean().backward()
        gradients.append([parameter.grad for parameter in gpt.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert all(float(one.abs().sum()) > 0 for one in gradients[0])


def test_checkpointing_keeps_less(monkeypatch):
    kept = []
    for checkpointing in (False, True):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):  # noqa: B023
            made(7, 9, layers=6, checkpointing=checkpointing).train().loss(batch_of(tokens(5, 9, 7)))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4


def test_bfloat16_autocast_is_close_and_keeps_the_loss_in_single_precision():
    with keyed_rng(3):
        gpt, x = GPT(7, 32, **TINY), batch_of(tokens(16, 32, 7))
    single = gpt.loss(x)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = gpt.loss(x)
    assert narrow.dtype == torch.float32
    assert not torch.equal(narrow, single)
    torch.testing.assert_close(narrow, single, rtol=1e-3, atol=0)


def test_initial_weights_have_their_spread():
    with keyed_rng(3):
        gpt = GPT(300, 8, layers=8, heads=4, width=128)
    spread = {name: float(p.detach().std()) for name, p in gpt.network.named_parameters() if p.ndim == 2}
    branches = [name for name in spread if name.endswith(("attention.output.weight", "mlp.2.weight"))]
    assert len(branches) == 16
    for name, value in spread.items():  # a standard error of at most 0.4 %
        assert value == pytest.approx(0.02 / math.sqrt(16) if name in branches else 0.02, rel=0.02)
    loss = gpt.loss(batch_of(tokens(16, 8, 300))).detach()
    assert float(loss.mean()) == pytest.approx(8 * math.log(300), rel=0.02)  # nearly uniform


def test_only_matrices_decay():
    gpt = made(7, 9, weight_decay=0.3, betas=[0.8, 0.9], learning_rate=0.5)
    before = {name: p.detach().clone() for name, p in gpt.named_parameters()}
    optimizer = gpt.configure_optimizers()
    for parameter in gpt.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}
    for name, p in gpt.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * ((1 - 0.5 * 0.3) if p.ndim > 1 else 1))


def test_dropout_is_off_outside_training():
    gpt, x = made(7, 9, dropout=0.5), tokens(3, 9, 7)
    assert torch.equal(gpt.log_prob(x), gpt.log_prob(x))
    gpt.train()
    with keyed_rng(1):
        assert not torch.equal(gpt.log_prob(x), gpt.log_prob(x))


def test_learned_positions_add_one_vector_for_each_place():
    sizes = [sum(p.numel() for p in GPT(7, 9, **TINY, positions=name).parameters()) for name in ("rotary", "learned")]
    assert sizes == [8 * 16 + 2 * (12 * 16**2 + 2 * 16) + 16, 8 * 16 + 2 * (12 * 16**2 + 2 * 16) + 16 + 9 * 16]


def test_a_chain_is_trained_to_predict_its_data():
    """A sequence that alternates has one bit, that of its first token."""
    data = MarkovData(rows=64, transition=((0.0, 1.0), (1.0, 0.0)), initial=(0.5, 0.5), length=12)
    with keyed_rng(3):
        gpt = GPT(2, 12, **TINY, learning_rate=1e-2)
    batch, optimizer = batch_of(data.gold().tensors()[0]), gpt.configure_optimizers()
    for _ in range(60):
        optimizer.zero_grad()
        gpt.loss(batch).mean().backward()
        optimizer.step()
    assert math.log(2) - 0.01 < float(gpt.loss(batch).mean().detach()) < math.log(2) + 0.03


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"vocabulary": 0}, "vocabulary = 0"),
        ({"length": 0}, "length = 0"),
        ({"layers": 0}, "layers = 0"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"width": 15}, "width = 15 cannot be shared among heads = 2"),
        ({"width": 6}, "with rotary positions of twice as many"),
        ({"positions": "rotery"}, "positions = 'rotery' .* did you mean 'rotary'"),
        ({"prompt": -1}, "prompt = -1"),
        ({"prompt": 2, "document_start": True}, "only one of them"),
        ({"prompt": 2, "positions": "learned"}, "prompt = 2, .* use positions='rotary'"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"learning_rate": -1.0}, "learning_rate = -1.0"),
        ({"weight_decay": math.inf}, "weight_decay = inf"),
        ({"betas": (0.9, 1.0)}, r"betas = \(0.9, 1.0\)"),
    ],
)
def test_a_wrong_argument_is_a_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        GPT(**{"vocabulary": 7, "length": 9} | TINY | arguments)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (tokens(2, 8, 7), r"rows of shape \(8,\) .* length = 9 tokens"),
        (torch.rand(2, 9), "type torch.float32 are not length = 9 tokens"),
        (torch.full((2, 9), 7), r"tokens 7 to 7 are not in \[0, 7\); set vocabulary = 8"),
        (torch.full((2, 9), -1), "tokens -1 to -1"),
    ],
    ids=["length", "type", "high", "low"],
)
def test_rows_of_another_kind_are_refused(rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        made(7, 9).outputs(batch_of(rows))


def test_the_network_counts_its_parameters():
    assert sum(p.numel() for p in Transformer(257, 128).parameters()) == 258 * 128 + 4 * (12 * 128**2 + 256) + 128
