"""What a generation starts with: nothing of the one before, unless it was asked for."""

import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from chains import QUIET, Denoiser, Plain, Watch, no_effects, ring, same, vae
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau

from collapse.data.generation import Generation
from collapse.data.loading import TrainingSet
from collapse.data.store import GenerationStore
from collapse.metrics.normality import random_directions, sliced_epps_pulley
from collapse.mitigations import EMA, AnchorReplay, DataAccumulation, MitigationStack, SIGReg, SlidingWindow
from collapse.models import GenerativeModule
from collapse.recursion import GenerationEarlyStopping
from collapse.recursion.composition import compose
from collapse.recursion.sampling import state_digest
from collapse.seeding import Clock, Stream, generator, key, keyed_rng, reseed

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks:DeprecationWarning")

SEED = 7


class Cosine(Denoiser):
    """A learning rate that falls over a generation, epoch by epoch."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return [optimizer], [CosineAnnealingLR(optimizer, T_max=3)]


class WarmUp(Denoiser):
    """A learning rate that rises step by step."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-2, momentum=0.9)
        scheduler = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Plateau(Denoiser):
    """A learning rate that halves whenever the loss of an epoch is not a quarter below the best before."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.25)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "train/loss"}}


class Annealed(Denoiser):
    """A learning rate of its own for every generation."""

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02 * 0.5**self.clock.generation)


class Normed(Denoiser):
    """BatchNorm and dropout, on which the sampler's output depends."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))


class Counted(Normed):
    """A buffer that is in no state dict; loss and sampler depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def loss(self, batch):
        self.steps += 1
        return super().loss(batch) * (1 + 0.1 * self.steps)

    def sample(self, n, generator, y=None):
        return super().sample(n, generator) + 0.01 * self.steps


class LatentNormed(Counted):
    """Exposes something to regularize."""

    exposes = frozenset({"latent"})
    configure_optimizers = Cosine.configure_optimizers

    def outputs(self, batch):
        return {"loss": self.loss(batch), "latent": self.net[:2](batch.x)}


# --- 17: the oracle ---------------------------------------------------------------------------------------------------


class Source:
    """All a data module asks for: one generation's training set, at the epoch the clock shows."""

    def __init__(self, training_set, clock) -> None:
        self.training_set, self.clock = training_set, clock

    def upcoming(self):
        return dataclasses.replace(self.training_set, epoch=self.clock.epoch)


class Tick(pl.Callback):
    """Advances the clock with the epochs, logs the epoch's loss, and seeds a module that knows no clock."""

    def __init__(self, clock) -> None:
        self.clock = clock

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not isinstance(pl_module, GenerativeModule):
            self.clock.batch = batch_idx
            reseed(self.clock.key(Stream.STEP, 0))

    def on_train_epoch_end(self, trainer, pl_module):
        self.clock.epoch += 1
        if isinstance(pl_module, GenerativeModule):
            pl_module.log("train/loss", pl_module.epoch_means()["loss"])


class Averaging(pl.Callback):
    """An exponential moving average of its own, written down as the formula."""

    def __init__(self, decay) -> None:
        self.decay, self.updates = decay, 0

    def on_train_start(self, trainer, pl_module):
        self.average = [weight.detach().clone() for weight in pl_module.parameters()]

    def on_train_batch_end(self, trainer, pl_module, *unused):
        if trainer.global_step == self.updates:
            return
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.average = [
            average.lerp(weight.detach(), 1 - decay)
            for average, weight in zip(self.average, pl_module.parameters(), strict=True)
        ]
        self.updates += 1

    @torch.no_grad()
    def on_train_end(self, trainer, pl_module):
        for weight, average in zip(pl_module.parameters(), self.average, strict=True):
            weight.copy_(average)


def penalized(weight, outputs, batch, module):
    """The objective of SIGReg(weight), spelled out."""
    latent = outputs["latent"]
    directions = random_directions(latent.shape[1], 64, generator(SEED, Stream.REGULARIZE, *moment(module.clock)))
    return outputs["loss"].mean() + weight * sliced_epps_pulley(latent, directions, unbiased=True)


def moment(clock):
    return clock.generation, clock.epoch, clock.batch


def scaler():
    """A loss scale that overflows at first and moves within a generation."""
    grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**17, growth_interval=3)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=grad_scaler)]}


def fitted(run, index, make, *, mitigations, trainer, prepare, callbacks, initialization, epochs, steps):
    """Generation ``index`` of ``run`` as a plain fit that knows of no chain."""
    store, record = GenerationStore(run.chain.root), run.chain.records[index]
    pool = store.pool([store.manifest(generation) for generation in range(index + 1)])
    rows = compose(Generation(index, 3, SEED, 48, pool), MitigationStack(mitigations)).rows
    if not mitigations:
        assert torch.equal(rows, (pool.generation == index).nonzero().squeeze(1))
    with keyed_rng(key(SEED, Stream.INIT, 0 if initialization == "same" else index)):
        module = make()
    if initialization == "warm" and index:
        module.load_state_dict(run.chain.state(index - 1))
    initial = {name: value.clone() for name, value in module.state_dict().items()}
    module.clock = clock = Clock(SEED, generation=index)
    prepare(module)
    data = ring()
    data.source = Source(TrainingSet(pool, rows, seed=SEED, generation=index, steps=steps), clock)
    options = {"max_epochs": epochs or record.counts["epochs"], "reload_dataloaders_every_n_epochs": 1}
    lightning = pl.Trainer(
        **QUIET,
        **options,
        **trainer(),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=[Tick(clock), *callbacks()],
    )
    lightning.fit(module, datamodule=data)
    assert lightning.global_step == record.counts["steps"]
    assert not same(module.state_dict(), initial), "it was trained"
    return module


@dataclasses.dataclass
class Case:
    """A chain, and what else its oracle needs."""

    make: object
    mitigations: list = dataclasses.field(default_factory=list)
    trainer: object = dict
    stoppers: object = list
    workers: int = 0
    epochs: int | None = 3
    steps: int | None = None
    initialization: str = "fresh"
    prepare: object = staticmethod(lambda module: None)
    callbacks: object = list


def regularized(weight):
    return lambda module: setattr(module, "objective", partial(penalized, weight))


CASES = {
    "vae": Case(vae),
    "user module": Case(Plain),
    "workers": Case(vae, workers=2),
    "steps": Case(vae, steps=11, epochs=None),
    "cosine": Case(Cosine),
    "warm-up": Case(WarmUp),
    "plateau": Case(Plateau, epochs=5),
    "rate by generation": Case(Annealed),
    "batch norm": Case(Normed),
    "hidden buffer": Case(Counted),
    "accumulate": Case(vae, [DataAccumulation()]),
    "window": Case(vae, [SlidingWindow(2)]),
    "anchors": Case(vae, [AnchorReplay(0.25)]),
    "redrawn anchors": Case(vae, [AnchorReplay(0.3, "redrawn"), DataAccumulation(subsample=50)]),
    "fresh anchors": Case(vae, [AnchorReplay(0.25, "fresh")]),
    "ema": Case(vae, [EMA(0.8)], callbacks=lambda: [Averaging(0.8)]),
    "sigreg": Case(vae, [SIGReg(0.5)], prepare=regularized(0.5)),
    "gradient accumulation": Case(WarmUp, trainer=lambda: {"accumulate_grad_batches": 2}),
    "clipping": Case(Cosine, trainer=lambda: {"gradient_clip_val": 0.1}),
    "scaler": Case(vae, trainer=scaler),
    "early stopping": Case(Cosine, stoppers=lambda: [GenerationEarlyStopping(min_delta=0.3, patience=1)], epochs=9),
    "same": Case(Cosine, initialization="same"),
    "warm": Case(Cosine, initialization="warm"),
    "warm with averages": Case(Normed, [EMA(0.5)], callbacks=lambda: [Averaging(0.5)], initialization="warm", epochs=2),
    "everything": Case(
        LatentNormed,
        [DataAccumulation(), AnchorReplay(0.4), EMA(0.9), SIGReg(0.2)],
        trainer=lambda: {**scaler(), "accumulate_grad_batches": 2, "gradient_clip_val": 1.0},
        workers=2,
        prepare=regularized(0.2),
        callbacks=lambda: [Averaging(0.9)],
    ),
    "everything, in steps": Case(
        LatentNormed,
        [DataAccumulation(subsample=70), AnchorReplay(0.4, "redrawn"), EMA(0.9), SIGReg(0.2)],
        trainer=lambda: {**scaler(), "accumulate_grad_batches": 2},
        steps=20,
        epochs=None,
        prepare=regularized(0.2),
        callbacks=lambda: [Averaging(0.9)],
    ),
}


# A loss scale that overflows at first skips optimizer steps, of which torch's schedulers know nothing.
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("name", CASES)
def test_a_generation_of_a_chain_is_an_independent_fit_bit_for_bit(chain, name):
    case = CASES[name]
    budget = {"steps_per_generation": case.steps} if case.steps else {"epochs_per_generation": case.epochs}
    stoppers = case.stoppers()
    run = chain(
        case.make(),
        ring(num_workers=case.workers),
        mitigations=case.mitigations,
        callbacks=stoppers,
        trainer=case.trainer(),
        initialization=case.initialization,
        seed=SEED,
        **budget,
    )
    for index, record in enumerate(run.chain.records):
        module = fitted(
            run,
            index,
            case.make,
            mitigations=case.mitigations,
            trainer=case.trainer,
            prepare=case.prepare,
            callbacks=case.callbacks,
            initialization=case.initialization,
            epochs=None if stoppers or case.steps else case.epochs,
            steps=case.steps,
        )
        assert same(module.state_dict(), run.chain.state(index)), f"generation {index}"
        assert state_digest(module.state_dict()) == record.digests["weights"]


def test_the_oracle_would_notice_a_leak(chain):
    """The same chain with one thing carried over is another chain: the test above has teeth."""

    class Leaky(Cosine):
        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
            if self.clock.generation:
                optimizer.load_state_dict(self.optimizers().optimizer.state_dict())
            return [optimizer], [CosineAnnealingLR(optimizer, T_max=3)]

    run = chain(Leaky(), seed=SEED, epochs_per_generation=3)
    settings = {"mitigations": [], "trainer": dict, "prepare": lambda module: None, "callbacks": list}
    settings |= {"initialization": "fresh", "epochs": 3, "steps": None}
    equal = [same(fitted(run, g, Cosine, **settings).state_dict(), run.chain.state(g)) for g in range(2)]
    assert equal == [True, False]


# --- 18: where the weights start --------------------------------------------------------------------------------------


def made(module, generation):
    with keyed_rng(key(SEED, Stream.INIT, generation)):
        return module().state_dict()


@pytest.mark.parametrize("module", [vae, Normed, Plain])
def test_fresh_weights_are_those_of_the_constructor_under_the_generations_key(chain, module):
    watch = Watch()
    chain(module(), callbacks=[watch], seed=SEED)
    assert all(same(watch.initial[g], made(module, g)) for g in range(3))
    assert len({state_digest(watch.initial[g]) for g in range(3)}) == 3


@pytest.mark.parametrize("module", [vae, Normed, Plain])
def test_same_weights_are_generation_zeros(chain, module):
    watch = Watch()
    run = chain(module(), callbacks=[watch], seed=SEED, initialization="same")
    assert all(same(watch.initial[g], made(module, 0)) for g in range(3))
    assert len({record.digests["weights"] for record in run.chain.records}) == 3, "but the data differ"


@pytest.mark.parametrize("module", [vae, Normed, Plain])
def test_warm_weights_are_the_last_generations(chain, module):
    watch = Watch()
    run = chain(module(), callbacks=[watch], seed=SEED, initialization="warm")
    assert same(watch.initial[0], made(module, 0))
    for generation in (1, 2):
        assert same(watch.initial[generation], run.chain.state(generation - 1))
        assert same(watch.initial[generation], watch.trained[generation - 1])


@pytest.mark.parametrize("initialization", ["fresh", "same", "warm"])
@pytest.mark.parametrize("mitigations", [[], [EMA(0.5)]], ids=["plain", "ema"])
def test_parameters_stay_the_objects_they_were(chain, initialization, mitigations):
    watch, module = Watch(), Normed()
    ids = [id(parameter) for parameter in module.parameters()]
    chain(module, callbacks=[watch], initialization=initialization, mitigations=mitigations)
    assert len(watch.pointers) == 1
    assert [id(parameter) for parameter in module.parameters()] == ids


def test_buffers_in_no_state_dict_start_afresh_and_gradients_are_dropped(chain):
    class Asking(Counted):
        found: list

        def on_train_epoch_start(self):
            self.found.append((float(self.steps), all(weight.grad is None for weight in self.parameters())))

    module = Asking()
    module.found = []
    chain(module, epochs_per_generation=1)
    assert module.found == [(0.0, True)] * 3


def test_a_compiled_network_is_compiled_once(chain):
    counters = torch._dynamo.utils.counters
    graphs = []

    class Compiled(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.net.compile(backend="aot_eager", dynamic=True)

        def on_train_epoch_end(self):
            graphs.append(counters["stats"]["unique_graphs"])

    torch._dynamo.reset()
    counters.clear()
    compiled = chain(Compiled(), ring(rows=48), epochs_per_generation=1)
    assert graphs[0] > 0
    assert graphs[1:] == [graphs[0] + (graphs[1] - graphs[0])] * 2
    eager = chain(Denoiser(), ring(rows=48), epochs_per_generation=1)
    assert [d["weights"] for d in compiled.digests] == [d["weights"] for d in eager.digests]


# --- 19: early stopping -----------------------------------------------------------------------------------------------


class Scripted(Denoiser):
    """Its loss falls to a floor after a number of epochs that differs from generation to generation."""

    learning_rate = 0.0
    falls = (2, 4, 1, 6)

    def loss(self, batch):
        level = 10.0 - min(self.clock.epoch, self.falls[self.clock.generation])
        return level + 0 * super().loss(batch)


def test_early_stopping_ends_each_generation_by_itself(chain):
    stopping = GenerationEarlyStopping("train/loss", patience=3)
    run = chain(Scripted(), generations=4, epochs_per_generation=10, callbacks=[stopping])
    # Epoch f is the first at the floor; three without improvement follow. The cap is ten.
    assert [record.counts["epochs"] for record in run.chain.records] == [2 + 4, 4 + 4, 1 + 4, 10]
    assert run.trainer.current_epoch == 6 + 8 + 5 + 10


def test_the_counter_restarts_with_every_generation(chain):
    counts = []

    class Spied(GenerationEarlyStopping):
        def on_generation_start(self, trainer, module, generation):
            before = (self.best, self.waited)
            super().on_generation_start(trainer, module, generation)
            counts.append((before, (self.best, self.waited)))

    chain(Scripted(), generations=3, epochs_per_generation=10, callbacks=[Spied(patience=2)])
    assert counts == [((math.inf, 0), (math.inf, 0)), ((8.0, 2), (math.inf, 0)), ((6.0, 2), (math.inf, 0))]


def test_early_stopping_of_the_largest_value(chain):
    class Rising(Scripted):
        def loss(self, batch):
            return -super().loss(batch)

    run = chain(
        Rising(), epochs_per_generation=10, callbacks=[GenerationEarlyStopping(patience=1, mode="max", min_delta=0.5)]
    )
    assert [record.counts["epochs"] for record in run.chain.records] == [4, 6, 3]


def test_early_stopping_on_a_metric_a_plain_module_logs(chain):
    class Falling(Plain):
        epochs = 0

        def on_train_epoch_start(self):
            self.epochs += 1

        def training_step(self, batch, batch_idx):
            self.log("steps", 1.0 / min(self.epochs, 5), on_epoch=True, on_step=False)
            return super().training_step(batch, batch_idx)

    stopping = GenerationEarlyStopping("steps", patience=2)
    run = chain(Falling(), epochs_per_generation=8, callbacks=[stopping])
    # It improves up to epoch 5 of the run; from then on the first epoch of each generation is its best.
    assert [record.counts["epochs"] for record in run.chain.records] == [7, 3, 3]


def test_a_metric_nobody_logs_is_named_with_those_there_are(chain):
    with pytest.raises(ValueError, match=r"monitors 'val/lose', which no epoch logged; there are: .*train/loss"):
        chain(Denoiser(), callbacks=[GenerationEarlyStopping("val/lose")])


def test_two_stopping_rules_stand_beside_each_other(chain):
    rules = [GenerationEarlyStopping(patience=4), GenerationEarlyStopping("train/loss", patience=2)]
    run = chain(Scripted(), epochs_per_generation=10, callbacks=rules)
    assert [record.counts["epochs"] for record in run.chain.records] == [5, 7, 4]


# --- 20: schedules and the loss scale ---------------------------------------------------------------------------------


def rates(chain, module, **settings):
    watch = Watch()
    run = chain(module(), callbacks=[watch], **settings)
    return run, watch


def test_a_cosine_schedule_restarts(chain):
    run, watch = rates(chain, Cosine, epochs_per_generation=3, trainer={"accumulate_grad_batches": 2})
    for generation, batches in enumerate([4, 3, 3]):
        expected = [0.01 * (1 + math.cos(math.pi * epoch / 3)) / 2 for epoch in range(3) for _ in range(batches)]
        np.testing.assert_allclose(watch.rates[generation], expected, rtol=1e-12)
    # Two batches a step, and an epoch's odd one is a step of its own.
    assert [record.counts["steps"] for record in run.chain.records] == [6, 6, 6]


def test_optimizers_are_made_for_the_generation_they_train(chain):
    _, watch = rates(chain, Annealed, epochs_per_generation=1)
    assert [set(watch.rates[generation]) for generation in range(3)] == [{0.02}, {0.01}, {0.005}]


def test_a_warm_up_restarts_and_counts_optimizer_steps(chain):
    _, watch = rates(chain, WarmUp, epochs_per_generation=3, trainer={"accumulate_grad_batches": 2})
    # Rate k/4 at step k: two batches share a step; of three, the last has its own.
    assert watch.rates[0] == pytest.approx([0.0025] * 2 + [0.005] * 2 + [0.0075] * 2 + [0.01] * 6, rel=1e-12)
    expected = [0.0025] * 2 + [0.005] + [0.0075] * 2 + [0.01] * 4
    assert watch.rates[1] == watch.rates[2] == pytest.approx(expected, rel=1e-12)


def test_a_plateau_schedule_restarts_with_its_best_value(chain):
    class Scripted(Plateau):
        """Generation g's loss is far below that of the one before, and stands still after its second epoch."""

        def loss(self, batch):
            level = (0.1**self.clock.generation) * (1.0 if self.clock.epoch else 2.0)
            return level + 0 * super().loss(batch)

        found: list

        def on_train_epoch_start(self):
            scheduler = self.lr_schedulers()
            self.found.append((self.clock.generation, self.clock.epoch, scheduler.last_epoch, scheduler.best))

    module = Scripted()
    module.found = []
    watch = Watch()
    chain(module, callbacks=[watch], epochs_per_generation=5, trainer={"accumulate_grad_batches": 2})
    for generation, batches in enumerate([4, 3, 3]):
        expected = [rate for rate in (0.01, 0.01, 0.01, 0.005, 0.0025) for _ in range(batches)]
        assert watch.rates[generation] == pytest.approx(expected, rel=1e-12)
        scale = 0.1**generation
        found = [(epoch, last, best) for g, epoch, last, best in module.found if g == generation]
        assert found[0] == (0, 0, math.inf)
        assert found[1:] == [
            (epoch, epoch, pytest.approx(scale * (2.0 if epoch == 1 else 1.0), rel=1e-6)) for epoch in range(1, 5)
        ]


def test_a_loss_scale_restarts(chain):
    watch, seen = Watch(), {}

    class Asking(Denoiser):
        def on_train_batch_end(self, *unused):
            seen.setdefault(self.clock.generation, []).append(self.trainer.precision_plugin.scaler.get_scale())

    chain(Asking(), callbacks=[watch], trainer={**scaler(), "accumulate_grad_batches": 2})
    assert watch.scales == {0: 2.0**17, 1: 2.0**17, 2: 2.0**17}
    assert all(set(scales) != {2.0**17} for scales in seen.values()), "it moves within each generation"


# --- 21: EMA ----------------------------------------------------------------------------------------------------------


class Trajectory(pl.Callback):
    """The weights after every optimizer step, by generation."""

    def __init__(self) -> None:
        self.weights = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        path = self.weights.setdefault(pl_module.clock.generation, [])
        if not path:
            path.append(self.vector(pl_module))

    def on_train_batch_end(self, trainer, pl_module, *unused):
        if trainer.fit_loop._should_accumulate():
            return
        self.weights[pl_module.clock.generation].append(self.vector(pl_module))

    @staticmethod
    def vector(module):
        return torch.cat([weight.detach().flatten() for weight in module.parameters()]).double()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_is_each_generations_own_and_is_what_is_recorded_and_sampled(chain, accumulate):
    path, watch, module = Trajectory(), Watch(), vae(learning_rate=1e-2)
    run = chain(
        module,
        mitigations=[EMA(0.6)],
        callbacks=[path, watch],
        trainer={"accumulate_grad_batches": accumulate},
        chunk_size=1024,
    )
    for generation, record in enumerate(run.chain.records):
        weights = path.weights[generation]
        assert len(weights) == record.counts["steps"] + 1
        average = weights[0]
        for updates, weight in enumerate(weights[1:]):
            decay = min(0.6, (1 + updates) / (10 + updates))
            average = decay * average + (1 - decay) * weight
        module.load_state_dict(run.chain.state(generation))
        torch.testing.assert_close(Trajectory.vector(module), average, rtol=1e-5, atol=1e-6)
        assert (Trajectory.vector(module) - weights[-1]).abs().max() > 1e-3, "not the last weights"
        assert same(watch.trained[generation], run.chain.state(generation))
        # The pool is what the averaged weights sample under the chunk's key.
        module.eval()
        address = (0, Stream.SAMPLE, generation + 1, 0)
        store = GenerationStore(run.chain.root)
        pool = store.pool([store.manifest(generation + 1)])
        stored = torch.from_numpy(pool.stored(np.arange(48)))
        assert torch.equal(module.sample(48, generator(*address)), stored)


def test_a_decay_of_zero_is_no_average(chain):
    plain = chain(vae())
    with no_effects() as warned:
        none = chain(vae(), mitigations=[EMA(0.0)])
    assert none.digests == plain.digests
    assert warned == [f"EMA(decay=0.0) changed nothing in generation {generation}" for generation in (1, 2)]


def test_observers_measure_the_averaged_model(chain):
    class Measured(Watch):
        def on_generation_end(self, trainer, module, generation):
            super().on_generation_end(trainer, module, generation)
            self.sampled = generation.sample(10, Stream.EVALUATE)
            address = (generation.seed, Stream.EVALUATE, generation.index, 0)
            self.expected = module.sample(10, generator(*address))

    watch = Measured()
    run = chain(vae(), mitigations=[EMA(0.5)], callbacks=[watch])
    assert torch.equal(watch.sampled, watch.expected)
    assert same(watch.trained[2], run.chain.state(2))
