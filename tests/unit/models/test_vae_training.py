"""How a VAE is trained: its optimizer, its memory format, its compiled form; none of them changes the model."""

import pytest
import torch

from collapse.data import Batch, Digits
from collapse.models import VAE
from collapse.recursion import run_chain
from collapse.seeding import generator, keyed_rng

CONV = {"shape": (3, 12, 12), "latent_dim": 4, "hidden": 16, "network": "conv"}


def made(**arguments):
    with keyed_rng(3):
        return VAE(**arguments)


def batch_of(x):
    n = len(x)
    return Batch(x, None, torch.zeros(n, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64), torch.arange(n))


def colored(n=16):
    return torch.rand(n, 3, 12, 12, generator=generator(1))


def chain_of(model, **options):
    settings = {"generations": 2, "samples_per_generation": 64, "steps_per_generation": 3, "evaluate": False}
    return run_chain(model, Digits(batch_size=32), **settings, accelerator="cpu", **options)


def digests(chain):
    return [(record.digests["weights"], record.digests["pool"]) for record in chain.records]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_optimizer_takes_the_steps_of_adam(weight_decay):
    ours, theirs = (made(**CONV, weight_decay=weight_decay).double() for _ in range(2))
    plain = torch.optim.Adam(theirs.parameters(), lr=1e-3, weight_decay=weight_decay, foreach=False)
    for module, optimizer in ((ours, ours.configure_optimizers()), (theirs, plain)):
        for step in range(4):
            optimizer.zero_grad()
            with keyed_rng(step):
                module.loss(batch_of(colored())).mean().backward()
            optimizer.step()
    before = made(**CONV).double()
    for mine, other, start in zip(ours.parameters(), theirs.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
        assert (mine - start).abs().max() > 1e-3  # four steps of nearly the learning rate


def test_weight_decay_pulls_a_weight_that_nothing_else_moves():
    vae = made(hidden=8, weight_decay=1e-5, learning_rate=0.01)
    optimizer = vae.configure_optimizers()
    weights = [parameter.detach().clone() for parameter in vae.parameters()]
    for parameter in vae.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter, before in zip(vae.parameters(), weights, strict=True):
        gradient = 1e-5 * before
        torch.testing.assert_close(parameter, before - 0.01 * gradient / (gradient.abs() + 1e-8))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_can_be_clipped_under_any_precision(precision):
    free = chain_of(made(hidden=8), precision=precision)
    clipped = chain_of(made(hidden=8), precision=precision, gradient_clip_val=1e-9)
    for name, weight in free.state(0).items():
        moved = (clipped.state(0)[name] - weight).abs().max()
        assert moved > 1e-5, name  # a gradient of 1e-9 is below Adam's epsilon: its steps are a tenth


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("settings", [{}, {"network": "conv"}, {"classes": 10}], ids=str)
def test_weights_of_any_type_are_trained_and_sampled(settings, dtype):
    """Rows of single precision meet them in a loss, and in an evaluation; everything outside is as wide as those."""
    y = torch.arange(16) % 10 if "classes" in settings else None
    vae, x = made(**{"hidden": 16, **settings}), torch.rand(16, 1, 8, 8, generator=generator(1))
    found = []
    for module in (vae, vae.twin().to(dtype)):
        module.load_state_dict(vae.state_dict())
        with keyed_rng(5):
            outputs = module.outputs(batch_of(x)._replace(y=y))
        outputs["loss"].mean().backward()
        bound = module.elbo(x, y=y, generator=generator(2))
        found.append([outputs["loss"].detach(), bound.detach(), module.sample(16, generator(3), y)])
        assert {value.dtype for value in found[-1]} == {torch.promote_types(module.dtype, torch.float32)}
    if dtype == torch.bfloat16:  # else the draws are others
        torch.testing.assert_close(found[1][:2], found[0][:2], rtol=5e-3, atol=0)
        assert not torch.equal(found[1][0], found[0][0])


def test_a_chain_has_weights_of_sixteen_bits():
    narrow, single = (chain_of(made(hidden=8), precision=precision) for precision in ("bf16-true", "32-true"))
    assert {weight.dtype for weight in narrow.state(1).values()} == {torch.bfloat16}
    for one, other in zip(narrow.records, single.records, strict=True):
        assert one.metrics["train/loss"] == pytest.approx(other.metrics["train/loss"], rel=0.01)


def test_the_memory_format_is_no_part_of_the_model():
    vae = made(**CONV)
    kernels = [parameter for parameter in vae.parameters() if parameter.ndim == 4]
    assert len(kernels) == 4
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    other = made(**CONV)
    other.to(memory_format=torch.contiguous_format)
    assert not next(other.encoder.parameters()).is_contiguous(memory_format=torch.channels_last)
    for mine, theirs in zip(vae.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with keyed_rng(5):
        mine = vae.outputs(batch_of(colored()))
    with keyed_rng(5):
        theirs = other.outputs(batch_of(colored()))
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("harvest", ["draw", "mean"])
def test_samples_stand_as_rows_do(harvest):
    assert made(**CONV, harvest=harvest).sample(5, generator(0)).is_contiguous()


def test_a_wrong_weight_decay_is_a_sentence():
    with pytest.raises(ValueError, match=r"weight_decay = -1\.0: both must be at least 0 and finite"):
        VAE(weight_decay=-1.0)


def test_compiling_is_asked_of_both_networks_in_place(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    vae = made(**CONV, compile=True)
    assert compiled == [vae.encoder, vae.decoder]
    assert vae.state_dict().keys() == made(**CONV).state_dict().keys()
    assert vae.twin().arguments["compile"]
    assert compiled[2:] != []


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo asks for that of z
@pytest.mark.slow
def test_a_compiled_model_is_the_model_and_its_chain_can_be_repeated():
    plain, fast = made(**CONV), made(**CONV, compile=True)
    with keyed_rng(5):
        expected = plain.outputs(batch_of(colored()))
    with keyed_rng(5):
        found = fast.outputs(batch_of(colored()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    first, again = (chain_of(made(hidden=8, compile=True)) for _ in range(2))
    assert digests(first) == digests(again)
