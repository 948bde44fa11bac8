"""A GPT with one layer on a source whose entropy is known in closed form."""

import math

import pytest
import torch

from collapse import MarkovData, run_chain
from collapse.models import GPT

SIGMAS = 4.5
SOURCES = {
    "two_states": ((0.9, 0.1), (0.3, 0.7)),
    "four_states": ((0.7, 0.1, 0.1, 0.1), (0.0, 0.5, 0.5, 0.0), (0.25, 0.25, 0.25, 0.25), (0.05, 0.9, 0.0, 0.05)),
}


def source_log_prob(data, x):
    """Return log p(x) of the source, (n,)."""
    first, steps = data.initial[x[:, 0]], data.transition[x[:, :-1], x[:, 1:]]
    return first.log() + steps.log().sum(1)


def entropy(law):
    return -(law * law.clamp_min(1e-300).log()).sum(-1)


@pytest.mark.parametrize(
    ("source", "positions"),
    [
        ("two_states", "rotary"),
        pytest.param("two_states", "learned", marks=pytest.mark.slow),
        pytest.param("four_states", "rotary", marks=pytest.mark.slow),
        pytest.param("four_states", "learned", marks=pytest.mark.slow),
    ],
)
def test_one_layer_reaches_the_entropy_rate_of_a_markov_source(source, positions):
    data = MarkovData(rows=2048, transition=SOURCES[source], length=32, reference_rows=4096, batch_size=64)
    states = len(data.transition)
    gpt = GPT(states, 32, layers=1, heads=2, width=32, positions=positions, learning_rate=1e-2, weight_decay=0.0)
    chain = run_chain(
        gpt, data, generations=1, epochs_per_generation=2 * states, samples_per_generation=1, evaluate=False
    )
    gpt.load_state_dict(chain.state(0))
    x = data.reference().tensors()[0].long()
    with torch.no_grad():
        excess = (source_log_prob(data, x) - gpt.eval().token_log_probs(x).double().sum(1)) / 32
        per_token = -gpt.token_log_probs(x).double().mean(1)
    rate = float((data.initial * entropy(data.transition)).sum())
    exact = (float(entropy(data.initial)) + 31 * rate) / 32  # the first token is drawn from the stationary law
    error = float(excess.std()) / math.sqrt(len(x))
    assert -SIGMAS * error < float(excess.mean()) < 0.01  # nats per token: the divergence of the model from the source
    assert abs(float(per_token.mean()) - exact) < 0.01 + SIGMAS * float(per_token.std()) / math.sqrt(len(x))
