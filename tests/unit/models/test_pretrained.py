"""Pretrained language models against transformers' own loss, search and processors, and by brute force."""

import itertools
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

from collapse.data import Batch, MarkovData
from collapse.data.generation import GenerationCallback
from collapse.models import PretrainedLM
from collapse.models.conditions import Prompts
from collapse.models.decoding import Decoding
from collapse.models.repetition import repetition_penalty
from collapse.recursion import run_chain
from collapse.seeding import Stream, generator, keyed_rng

END = 256  # begin and end token of the tiny models
ARCHITECTURES = ["gpt2", "opt", "llama"]
ROWS = torch.randint(257, (7, 12), generator=generator(1), dtype=torch.int32)
PROMPTS = torch.randint(257, (7, 5), generator=generator(2))


def made(folder, length=12, **options):
    with keyed_rng(3):
        return PretrainedLM(str(folder), length, **{"prompt": 0, **options})


def batch_of(x):
    n = len(x)
    return Batch(x, None, torch.zeros(n, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64), torch.arange(n))


def as_published(folder):
    """The network, read by transformers alone."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


def after_begin(tokens):
    return torch.cat([torch.full((len(tokens), 1), END), tokens.long()], 1)


@pytest.fixture(params=ARCHITECTURES)
def folder(request, language_models):
    return language_models[request.param]


@pytest.fixture
def gpt2(language_models):
    return language_models["gpt2"]


# the law


def test_log_prob_is_the_loss_of_transformers(folder):
    model = made(folder)
    tokens = after_begin(ROWS)
    with torch.no_grad():
        published = as_published(folder)(tokens, labels=tokens).loss  # mean over the tokens after the first
        torch.testing.assert_close(-model.log_prob(ROWS).mean() / 12, published, rtol=1e-6, atol=0)
        torch.testing.assert_close(model.token_log_probs(ROWS).sum(1), model.log_prob(ROWS))
        torch.testing.assert_close(model.eval().loss(batch_of(ROWS)), -model.log_prob(ROWS))


@pytest.mark.parametrize("vocabulary", [2, 4])
def test_all_rows_together_have_probability_one(folder, vocabulary):
    rows = torch.tensor(list(itertools.product(range(vocabulary), repeat=4)))
    with torch.no_grad():
        total = made(folder, 4, vocabulary=vocabulary).log_prob(rows).double().exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-6)


def test_sampled_rows_follow_log_prob(gpt2):
    n, rows = 20_000, torch.tensor(list(itertools.product(range(4), repeat=2)))
    model = made(gpt2, 2, vocabulary=4, sampling_batch=n)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(4)  # a law far from uniform
        expected = n * model.log_prob(rows).double().exp()
    drawn = model.sample(n, generator(4))
    counts = torch.bincount(4 * drawn[:, 0] + drawn[:, 1], minlength=16)
    assert expected.min() < 0.5 * expected.mean()
    assert float(((counts - expected).square() / expected).sum()) < 37.7  # the 0.999 quantile with 15 degrees


def test_dropout_is_trained_with_and_is_no_part_of_the_law(gpt2):
    model = made(gpt2)
    assert model.network.training
    with keyed_rng(0), torch.no_grad():
        first, second = model.loss(batch_of(ROWS)), model.loss(batch_of(ROWS))
        assert not torch.equal(first, second)
        assert torch.equal(model.log_prob(ROWS), model.log_prob(ROWS))
    model.sample(2, generator(0))
    assert model.network.training


def test_checkpointing_leaves_gradients_as_they_are(folder):
    gradients = []
    for checkpointing in (False, True):
        model, passes = made(folder, checkpointing=checkpointing), []
        attention = next(part for name, part in model.network.named_modules() if name.endswith("attn"))
        attention.register_forward_hook(lambda *unused, passes=passes: passes.append(1))
        with keyed_rng(5):  # dropout
            model.loss(batch_of(ROWS)).mean().backward()
        assert len(passes) == 1 + checkpointing
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_sixteen_bits_are_near(gpt2):
    model = made(gpt2).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        narrow, rows = model.log_prob(ROWS), model.sample(4, generator(0))
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, model.log_prob(ROWS), rtol=2e-3, atol=0)
    assert rows.shape == (4, 12)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_optimizer_takes_the_steps_of_adamw(gpt2, decay):
    options = {"learning_rate": 1e-3, "weight_decay": decay}
    ours, theirs, before = (made(gpt2, **options).double() for _ in range(3))
    plain = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=decay, foreach=False)
    for module, optimizer in ((ours, ours.configure_optimizers()), (theirs, plain)):
        rng = generator(5)
        for _ in range(4):  # with gradients of some size: those of a key's bias are rounding errors, and all is theirs
            for parameter in module.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
            optimizer.step()
    for mine, other, start in zip(ours.parameters(), theirs.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)
        assert (mine - start).abs().max() > 1e-3  # four steps of nearly the learning rate
    assert ours.configure_optimizers().defaults["fused"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_can_be_clipped_under_any_precision(gpt2, precision):
    settings = {"generations": 1, "samples_per_generation": 4, "evaluate": False, "precision": precision}
    chains = [
        run_chain(made(gpt2, learning_rate=1e-3), text(), **settings, accelerator="cpu", gradient_clip_val=clip)
        for clip in (None, 1e-9)
    ]
    free, clipped = (chain.state(0)["network.transformer.wte.weight"] for chain in chains)
    assert (free - clipped).abs().max() > 1e-4  # a gradient of 1e-9 is below Adam's epsilon: its steps are a tenth


# the sampler


def uncached(model, n, rng, y=None, penalty=1.0):
    """Draw rows by running over the whole text again for every token."""
    text = after_begin(torch.empty(n, 0) if y is None else y)
    uniform = torch.rand(n, model.length, dtype=torch.float64, generator=rng)
    for place in range(model.length):
        logits = model.network(text).logits[:, -1]
        for row, had in enumerate(text.tolist()):
            for token in set(had):
                logits[row, token] *= 1 / penalty if logits[row, token] > 0 else penalty
        law = model.decoding.apply(logits[:, : model.vocabulary].softmax(1)).double().cumsum(1)
        text = torch.cat([text, (law <= uniform[:, place, None]).sum(1, keepdim=True)], 1)
    return text[:, -model.length :].int()


@pytest.mark.parametrize(
    "options",
    [{}, {"vocabulary": 100}, {"temperature": 0.5, "top_k": 20, "top_p": 0.8}, {"repetition_penalty": 3.0}],
    ids=str,
)
@pytest.mark.parametrize("y", [None, PROMPTS], ids=["", "prompts"])
def test_the_cache_changes_no_token(folder, options, y):
    model = made(folder, **options).eval()
    with torch.no_grad():
        expected = uncached(model, 7, generator(6), y, options.get("repetition_penalty", 1.0))
    assert torch.equal(model.sample(7, generator(6), y), expected)
    assert expected.unique().numel() > 20


@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_one_candidate_is_the_greedy_search_of_transformers(folder, penalty):
    drawn = made(folder, top_k=1, repetition_penalty=penalty).sample(7, generator(0), PROMPTS)
    assert torch.equal(drawn, searched(folder, num_beams=1, repetition_penalty=penalty))


@pytest.mark.parametrize("penalty", [1.0, 3.0])
def test_beams_are_those_of_transformers(folder, penalty):
    model = made(folder, prompt=5, beams=5, repetition_penalty=penalty, sampling_batch=3)
    found = model.sample(7, generator(0), PROMPTS)
    assert torch.equal(found, searched(folder, num_beams=5, repetition_penalty=penalty))
    if penalty == 1:  # what beams are for: a likelier row than the greedy one
        greedy = made(folder, top_k=1).sample(7, generator(0), PROMPTS)
        assert given_prompts(model, found).sum() > given_prompts(model, greedy).sum()


def given_prompts(model, rows):
    """Log-probability of rows that continue ``PROMPTS``."""
    whole = torch.cat([PROMPTS, rows], 1)
    with torch.no_grad():
        logits = model.network.eval()(after_begin(whole)).logits[:, 5:-1]
    return logits.log_softmax(2).gather(2, rows.long()[:, :, None]).sum((1, 2))


def searched(folder, **options):
    network = as_published(folder)
    network.generation_config = transformers.GenerationConfig(pad_token_id=0)
    text = after_begin(PROMPTS)
    mask = torch.ones_like(text)
    return network.generate(text, attention_mask=mask, max_new_tokens=12, do_sample=False, **options)[:, 6:].int()


def test_beams_stay_within_the_vocabulary(gpt2):
    model = made(gpt2, prompt=5, beams=3, vocabulary=40)
    assert model.sample(7, generator(0), PROMPTS).max() < 40


@pytest.mark.parametrize("options", [{}, {"prompt": 5, "beams": 3}], ids=str)
def test_an_end_token_ends_nothing(gpt2, options):
    def prefer_the_end(module, inputs, outputs):
        outputs.logits[..., END] += 100

    model = made(gpt2, **options)
    model.network.register_forward_hook(prefer_the_end)
    assert torch.equal(model.sample(7, generator(0), PROMPTS), torch.full((7, 12), END, dtype=torch.int32))


@pytest.mark.parametrize("options", [{}, {"vocabulary": 40}, {"repetition_penalty": 2.0}], ids=str)
def test_a_broken_model_is_not_sampled(folder, options):
    model = made(folder, **options)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="NaN; lower the learning rate"):
        model.sample(4, generator(0))


def test_the_penalty_is_not_rounded_to_sixteen_bits(gpt2):
    """Autocast's logits are widened before they are divided: the quotient has more digits than they have."""
    model = made(gpt2, 2, repetition_penalty=1.3).eval()
    laws = []

    class Watched(Decoding):
        def apply(self, probabilities):
            laws.append(probabilities)
            return super().apply(probabilities)

    model.decoding = Watched()
    laws.clear()  # it tries itself when it is made
    with torch.autocast("cpu", torch.bfloat16):
        model.sample(3, generator(0))
        with torch.no_grad():
            logits = model.network(torch.full((3, 1), END)).logits[:, -1]
    assert logits.dtype == torch.bfloat16
    expected = repetition_penalty(logits.float(), torch.full((3, 1), END), 1.3).softmax(-1)
    torch.testing.assert_close(laws[0], expected, rtol=1e-6, atol=0)


def test_a_subclass_has_a_constructor_of_its_own(gpt2):
    class Mine(PretrainedLM):
        def __init__(self, folder):
            super().__init__(folder, 12, prompt=5)

    assert isinstance(Mine(str(gpt2)).conditions(text()), Prompts)


def test_the_rows_at_a_time_have_no_part_in_the_draw(folder):
    whole = made(folder).sample(7, generator(0), PROMPTS)
    assert torch.equal(made(folder, sampling_batch=3).sample(7, generator(0), PROMPTS), whole)


def test_the_penalty_is_that_of_transformers():
    logits, texts = torch.randn(5, 30, generator=generator(7)), torch.randint(30, (5, 9), generator=generator(8))
    kept = logits.clone()
    for theta in (0.5, 3.0):
        published = transformers.RepetitionPenaltyLogitsProcessor(theta)(texts, logits.clone())
        assert torch.equal(repetition_penalty(logits, texts, theta), published)
    assert torch.equal(logits, kept)
    assert repetition_penalty(logits, texts, 1.0) is logits


def test_what_departs_from_the_law_is_recorded(gpt2):
    assert made(gpt2).sampler_settings == {}
    nature = made(gpt2, prompt=5, beams=5, repetition_penalty=3.0)
    assert nature.sampler_settings == {"prompt": 5, "beams": 5, "repetition_penalty": 3.0}
    assert made(gpt2, temperature=0.3, top_k=4).sampler_settings == {"temperature": 0.3, "top_k": 4}


# a chain


class Text(MarkovData):
    """A source of 257 tokens whose held-out rows begin samples."""

    vocabulary = 257

    def prompts(self, length):
        return self.reference().x[:, :length].long()


class Beginnings(GenerationCallback):
    """Keeps a tensor as every generation finds it."""

    def __init__(self, name):
        self.name, self.found = name, []

    def on_generation_start(self, trainer, module, generation):
        self.found.append(module.state_dict()[self.name].clone())


def text():
    law = [[1 / 257] * 257] * 257
    return Text(rows=48, transition=law, length=12, reference_rows=20, batch_size=16)


@pytest.mark.parametrize("initialization", ["fresh", "warm"])
def test_a_chain_fine_tunes_the_pretrained_model_and_continues_real_text(gpt2, initialization, tmp_path):
    name, data, seen = "network.transformer.ln_f.weight", text(), Beginnings("network.transformer.ln_f.weight")
    model = made(gpt2, prompt=5, learning_rate=1e-3)
    chain = run_chain(
        model, data, generations=2, samples_per_generation=24, initialization=initialization, evaluate=False,
        callbacks=[seen], chunk_size=16, seed=9, store=tmp_path,
    )  # fmt: skip
    published = load_file(gpt2 / "model.safetensors")["transformer.ln_f.weight"]
    trained = chain.state(0)[name]
    assert not torch.equal(trained, published)
    assert torch.equal(seen.found[-1], published if initialization == "fresh" else trained)
    model.load_state_dict(chain.state(1))
    y = Prompts(data.prompts(5)).draw(8, generator(9, Stream.CONDITION, Stream.SAMPLE, 2, 1))
    again = model.eval().sample(8, generator(9, Stream.SAMPLE, 2, 1), y)  # the second chunk of the last pool
    manifest = json.loads((tmp_path / "generations/gen_002/manifest.json").read_text())
    assert manifest["facts"]["sampler"] == {"prompt": 5}
    assert torch.equal(again, chain.pool().gather(torch.arange(48 + 24 + 16, 48 + 48)).x)


# what is refused


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"length": 0}, "length = 0 must be at least 1"),
        ({"sampling_batch": 0}, "sampling_batch = 0 must be at least 1"),
        ({"prompt": -1}, "prompt = -1 must be at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate = nan must be at least 0 and finite"),
        ({"repetition_penalty": 0.0}, "repetition_penalty = 0.0 must be above 0"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"beams": 2}, "beams = 2 and prompt = 0 make one row again and again"),
        (
            {"beams": 2, "prompt": 5, "temperature": 0.5},
            "beams = 2 searches for .* leave temperature, top_k and top_p neutral",
        ),
        ({"vocabulary": 258}, "a vocabulary of 258 tokens and the model knows 257; give the model's folder"),
        ({"prompt": 40}, "prompt = 40 and length = 12 are 52 tokens, and the model attends to 48"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_arguments_out_of_range_are_refused(gpt2, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        made(gpt2, **options)


@pytest.mark.parametrize(
    "y", [torch.zeros(7), torch.zeros(6, 5), torch.zeros(7, 37)], ids=["labels", "too few", "too long"]
)
def test_prompts_that_begin_no_such_rows_are_refused(gpt2, y):
    with pytest.raises(ValueError, match=r"does not begin 7 rows of 12 tokens; .* p \+ length at most 48"):
        made(gpt2).sample(7, generator(0), y)


@pytest.mark.parametrize("x", [torch.zeros(2, 11).int(), torch.zeros(2, 12), torch.zeros(2, 12, 1).int()], ids=str)
def test_rows_that_are_no_text_of_that_length_are_refused(gpt2, x):
    with pytest.raises(ValueError, match="are no length = 12 tokens"):
        made(gpt2).loss(batch_of(x))


def test_data_without_text_give_no_prompts(gpt2):
    with pytest.raises(ValueError, match=r"prompt = 5, but MarkovData has no held-out text .*; set prompt=0"):
        made(gpt2, prompt=5).conditions(MarkovData())
    assert made(gpt2).conditions(MarkovData()) is None
