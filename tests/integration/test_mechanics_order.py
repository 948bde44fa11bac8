"""The order of a generation's phases, what a checkpoint holds, and what is refused before anything is trained."""

import gc

import pytest
import pytorch_lightning as pl
import torch
from chains import QUIET, Denoiser, Plain, Watch, Zeros, recursion_for, ring, same, train, vae
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, Timer
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from collapse.data.generation import GenerationCallback
from collapse.data.manifest import Manifest
from collapse.mitigations import EMA, AnchorReplay, DataAccumulation, SIGReg
from collapse.models import GenerativeModule
from collapse.recursion import GenerationEarlyStopping, RecursiveTrainer, run_chain
from collapse.recursion.sampling import state_digest
from collapse.seeding import Stream, key, keyed_rng

# --- 1: the order -----------------------------------------------------------------------------------------------------


class Diary(GenerationCallback):
    """Writes down the phases it is told of; the parts below write into the same list."""

    def __init__(self) -> None:
        self.events = []

    def on_generation_end(self, trainer, module, generation):
        self.events.append(f"harvest {generation.index + 1}")

    def on_generation_start(self, trainer, module, generation):
        self.events.append(f"turn {generation.index}")


class NotedSave(ModelCheckpoint):
    """Every epoch's checkpoint, all of them kept."""

    def __init__(self, root, diary) -> None:
        super().__init__(root, filename="{epoch}", every_n_epochs=1, save_on_train_epoch_end=True, save_top_k=-1)
        self.diary = diary

    def _save_checkpoint(self, trainer, filepath):
        self.diary.events.append("save")
        super()._save_checkpoint(trainer, filepath)


class NotedZeros(Zeros):
    def __init__(self, diary) -> None:
        super().__init__()
        self.diary = diary

    def describe(self):
        return "NotedZeros()"

    def train_dataloader(self):
        loader = super().train_dataloader()
        self.diary.events.append(f"loader {loader.batches.generation}.{loader.batches.epoch}")
        return loader


class NotedDenoiser(Denoiser):
    diary: Diary

    def loss(self, batch):
        event = f"batch {self.clock.generation}.{self.clock.epoch}"
        if self.diary.events[-1] != event:
            self.diary.events.append(event)
        return super().loss(batch)


def noted_run(root, ckpt=None):
    diary, module = Diary(), NotedDenoiser()
    module.diary = diary
    # The checkpoint comes before the diary in the list; Lightning calls checkpoints after everything else all the same.
    run = train(
        root,
        module,
        NotedZeros(diary),
        generations=2,
        ckpt=ckpt,
        callbacks=[NotedSave(root / "saves", diary), diary],
        trainer={"enable_checkpointing": True},
    )
    return diary.events, run


FIRST_EPOCH = ["loader 0.0", "turn 0", "batch 0.0", "save"]
SECOND_EPOCH = ["loader 0.1", "batch 0.1", "harvest 1", "save"]
THIRD_EPOCH = ["loader 1.0", "turn 1", "batch 1.0", "save"]
FOURTH_EPOCH = ["loader 1.1", "batch 1.1", "harvest 2", "save"]


def test_harvest_then_save_then_loader_then_turn_then_first_batch(tmp_path):
    events, _ = noted_run(tmp_path)
    assert events == FIRST_EPOCH + SECOND_EPOCH + THIRD_EPOCH + FOURTH_EPOCH


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, ["loader 0.1", *SECOND_EPOCH, *THIRD_EPOCH, *FOURTH_EPOCH]),
        (1, ["loader 1.0", *THIRD_EPOCH, *FOURTH_EPOCH]),
        (2, ["loader 1.1", *FOURTH_EPOCH]),
        (3, []),
    ],
)
def test_a_resumed_chain_takes_up_the_order_and_ends_the_same(tmp_path, epoch, expected):
    _, whole = noted_run(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("gen_*/*")}
    events, resumed = noted_run(tmp_path, ckpt=tmp_path / "saves" / f"epoch={epoch}.ckpt")
    # Lightning asks for a loader twice on resume, before and after the state of the loops is back; a finished chain
    # trains nothing, whatever it asks for.
    trained = [event for event in events if not event.startswith("loader")]
    assert (events if expected else trained) == expected
    assert resumed.chain.records == whole.chain.records
    assert same(resumed.module.state_dict(), whole.module.state_dict())
    assert {path: path.read_bytes() for path in tmp_path.rglob("gen_*/*")} == files


def test_a_turn_is_over_before_an_epoch_hook_of_the_module(tmp_path):
    """A module's own on_train_epoch_start finds its generation's weights, optimizer and clock."""
    found = []

    class Asking(Denoiser):
        def on_train_epoch_start(self):
            found.append((self.clock.generation, state_digest(self.state_dict()), len(self.optimizers().state)))

    watch = Watch()
    train(tmp_path, Asking(), callbacks=[watch], epochs_per_generation=1)
    assert found == [(g, state_digest(watch.initial[g]), 0) for g in range(3)]


# --- 2: the checkpoint ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mitigations", [[], [EMA(0.9), DataAccumulation()]], ids=["plain", "ema"])
def test_a_checkpoint_at_a_generations_end_holds_the_trained_weights_and_the_pending_manifest(chain, mitigations):
    checkpoints = ModelCheckpoint(
        filename="{epoch}", every_n_epochs=1, save_on_train_epoch_end=True, save_top_k=-1, enable_version_counter=False
    )
    run = chain(vae(), mitigations=mitigations, callbacks=[checkpoints], trainer={"enable_checkpointing": True})
    files = {path.stem: torch.load(path, weights_only=True) for path in run.chain.root.rglob("*.ckpt")}
    assert sorted(files) == [f"epoch={epoch}" for epoch in range(6)]
    digests = [state_digest(files[f"epoch={epoch}"]["state_dict"]) for epoch in range(6)]
    states = [files[f"epoch={epoch}"]["callbacks"]["RecursiveTrainer"] for epoch in range(6)]
    for generation, record in enumerate(run.chain.records):
        middle, end = 2 * generation, 2 * generation + 1
        assert digests[end] == record.digests["weights"] == state_digest(run.chain.state(generation))
        assert digests[middle] not in {other.digests["weights"] for other in run.chain.records}
        assert states[middle]["pending"] is None
        assert Manifest.from_dict(states[end]["pending"]).content == record.digests["pool"]
        assert states[end]["pending"]["facts"]["model"]["weights"] == digests[end]
        assert [manifest["generation"] for manifest in states[end]["manifests"]] == list(range(generation + 1))
        assert states[end]["generation"] == generation
    assert len(set(digests)) == 6


# --- 3: misconfiguration ----------------------------------------------------------------------------------------------


class Untouched(Denoiser):
    """Says when it is trained."""

    def loss(self, batch):
        raise AssertionError("a batch was trained on")


class Voiceless(pl.LightningModule):
    def training_step(self, batch, batch_idx):
        raise AssertionError("a batch was trained on")

    def configure_optimizers(self):
        return None


class Mute(Voiceless):
    """It samples, but it cannot be made again: nothing tells with what ``width`` it was made."""

    def __init__(self, width) -> None:
        super().__init__()
        self.net = torch.nn.Linear(width, 2)

    def sample(self, n, generator):
        return torch.zeros(n, 2)


class Borrowed(GenerativeModule):
    """Takes its network as an argument: a twin would train the old one on."""

    def __init__(self, net) -> None:
        super().__init__()
        self.net = net

    def loss(self, batch):
        raise AssertionError("a batch was trained on")

    def sample(self, n, generator, y=None):
        return torch.zeros(n, 2)


class Held(Voiceless):
    """Keeps a network among its hyperparameters, as many modules do: made again, it would hold the same network."""

    def __init__(self, net) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = net

    def sample(self, n, generator):
        return self.net(torch.randn(n, 2, generator=generator))


class Late(Untouched):
    def configure_model(self):
        self.late = torch.nn.Linear(2, 2)


def extended():
    module = Untouched()
    module.head = torch.nn.Linear(2, 2)
    return module


def replaced():
    module = Untouched()
    module.net[0] = torch.nn.Linear(2, 5)
    return module


FLAGS = {
    "max_steps": ({"max_steps": 5}, [], "max_steps=5 "),
    "max_time": ({"max_time": "00:01:00:00"}, [], "max_time "),
    "Timer": ({}, [Timer(interval="epoch")], "Timer"),
    "EarlyStopping": ({}, [EarlyStopping("train/loss")], "EarlyStopping would end the run"),
    "reload 0": ({"reload_dataloaders_every_n_epochs": 0}, [], "reload_dataloaders_every_n_epochs=0 "),
    "reload 2": ({"reload_dataloaders_every_n_epochs": 2}, [], "reload_dataloaders_every_n_epochs=2 "),
    "max_epochs": ({"max_epochs": 5}, [], "max_epochs=5 must be at least 6"),
    "min_epochs": ({"max_epochs": 9, "min_epochs": 9}, [], "min_epochs=9 "),
    "min_steps": ({"max_epochs": 9, "min_steps": 90}, [], "min_steps=90 "),
    "fast_dev_run": ({"fast_dev_run": True}, [], "max_steps=1 "),
}


def refused(root, error, message, module, data=None, **settings):
    with pytest.raises(error, match=message):
        train(root, module, data, **settings)
    assert not list(root.rglob("*")), "something was written"


@pytest.mark.parametrize("flag", FLAGS)
def test_a_wrong_flag_is_refused_by_name_before_anything_is_trained(tmp_path, flag):
    trainer, callbacks, message = FLAGS[flag]
    refused(tmp_path, MisconfigurationException, message, Untouched(), trainer=trainer, callbacks=callbacks)


def test_every_wrong_flag_is_named_at_once(tmp_path):
    wrong = {"max_steps": 5, "max_epochs": 1, "reload_dataloaders_every_n_epochs": 0}
    with pytest.raises(MisconfigurationException) as caught:
        train(tmp_path, Untouched(), trainer=wrong)
    assert all(flag in str(caught.value) for flag in wrong)
    assert "trainer_kwargs" in str(caught.value), "the way out"


class NotRecursive(pl.LightningDataModule):
    def train_dataloader(self):
        raise AssertionError("asked for a batch")


def test_a_datamodule_of_another_type_is_refused(tmp_path):
    refused(tmp_path, TypeError, "RecursiveDataModule.*got NotRecursive", Untouched(), NotRecursive())


def test_a_bare_dataloader_is_refused(tmp_path):
    recursion = recursion_for(tmp_path)
    trainer = pl.Trainer(**QUIET, **recursion.trainer_kwargs(), callbacks=[recursion])
    with pytest.raises(TypeError, match=r"RecursiveDataModule.*got none"):
        trainer.fit(Untouched(), train_dataloaders=torch.utils.data.DataLoader(torch.zeros(4, 2)))


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (Voiceless, TypeError, r"Voiceless has no sample\(n, generator\)"),
        (lambda: Mute(2), ValueError, r"Mute cannot be made again .*width.*save_hyperparameters"),
        (lambda: Borrowed(torch.nn.Linear(2, 2)), ValueError, "Borrowed takes the network 'net' as an argument"),
        (lambda: Held(torch.nn.Linear(2, 2)), ValueError, "Held takes the network of 'net.weight' as an argument"),
        (extended, ValueError, "Untouched made again .* has another 'head.weight'"),
        (replaced, ValueError, "Untouched made again .* has another 'net.0.weight'"),
        (Late, ValueError, "Late builds its network in configure_model"),
    ],
    ids=["no sample", "no twin", "shared network", "shared parameter", "extended", "replaced", "late"],
)
@pytest.mark.filterwarnings("ignore:Attribute 'net' is an instance of `nn.Module`")
def test_a_module_that_cannot_take_part_is_refused(tmp_path, module, error, message):
    refused(tmp_path, error, message, module())


def test_a_penalty_on_a_module_with_its_own_loss_is_refused(tmp_path):
    refused(tmp_path, TypeError, "Plain computes its own loss.*SIGReg", Plain(), mitigations=[SIGReg(0.1)])


def test_a_penalty_on_an_output_that_is_not_exposed_is_refused(tmp_path):
    message = r"SIGReg\(weight=0.1\) works on the output 'latent', which Untouched does not expose"
    refused(tmp_path, ValueError, message, Untouched(), mitigations=[SIGReg(0.1)])


def test_two_recursive_trainers_are_refused(tmp_path):
    with pytest.raises((RuntimeError, MisconfigurationException), match="RecursiveTrainer"):
        train(tmp_path, Untouched(), callbacks=[recursion_for(tmp_path / "other")])
    assert not list(tmp_path.rglob("*"))


def test_a_sampler_that_gives_the_wrong_shape_is_named(tmp_path):
    class Sideways(Denoiser):
        def sample(self, n, generator, y=None):
            return super().sample(n, generator).T

    with pytest.raises(ValueError, match=r"sampled \(2, 20\) where \(20, 2\) was asked for"):
        train(tmp_path, Sideways())
    assert not (tmp_path / "generations" / "gen_001" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("generations", 0), ("samples_per_generation", 0), ("epochs_per_generation", 0), ("chunk_size", 0)],
)
def test_a_count_below_one_is_refused(tmp_path, setting, value):
    with pytest.raises(ValueError, match=f"{setting} must be at least 1, got {value}"):
        recursion_for(tmp_path, **{setting: value})


def test_two_budgets_are_refused(tmp_path):
    with pytest.raises(ValueError, match="steps_per_generation=5 and epochs_per_generation=2 are two budgets"):
        RecursiveTrainer(2, samples_per_generation=8, store=tmp_path, epochs_per_generation=2, steps_per_generation=5)


def test_an_unknown_initialization_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="'frech'; did you mean 'fresh'"):
        recursion_for(tmp_path, initialization="frech")


def test_max_epochs_above_the_chain_ends_with_it(chain):
    run = chain(Denoiser(), trainer={"max_epochs": 50})
    assert (run.trainer.current_epoch, len(run.chain.records)) == (6, 3)
    assert run.digests == chain(Denoiser()).digests


# --- any module, run_chain --------------------------------------------------------------------------------------------


def test_a_generative_module_of_loss_and_sample_alone_trains_each_generation(chain):
    watch = Watch()
    run = chain(Denoiser(), callbacks=[watch])
    for generation in range(3):
        assert same(watch.trained[generation], run.chain.state(generation))
        assert not same(watch.initial[generation], watch.trained[generation])
        with keyed_rng(key(0, Stream.INIT, generation)):
            assert same(watch.initial[generation], Denoiser().state_dict())


def test_a_lightning_module_of_anybodys_trains_each_generation(chain):
    watch = Watch()
    run = chain(Plain(rate=3e-2), callbacks=[watch], mitigations=[DataAccumulation(), AnchorReplay(0.25)])
    assert [record.real_fraction for record in run.chain.records] == [1.0, 0.25, 0.25]
    for generation in range(3):
        assert same(watch.trained[generation], run.chain.state(generation))
        assert watch.trained[generation]["net.1.num_batches_tracked"] == run.chain.records[generation].counts["steps"]
        with keyed_rng(key(0, Stream.INIT, generation)):
            assert same(watch.initial[generation], Plain(rate=3e-2).state_dict())
    assert run.digests == chain(Plain(rate=3e-2), mitigations=[AnchorReplay(0.25), DataAccumulation()]).digests
    assert run.digests != chain(Plain(rate=3e-2), mitigations=[AnchorReplay(0.25), DataAccumulation()], seed=1).digests


def test_the_weights_a_module_is_handed_over_with_do_not_matter(chain):
    with keyed_rng(1):
        one = vae()
    with keyed_rng(2):
        other = vae()
    assert not same(one.state_dict(), other.state_dict())
    assert chain(one).digests == chain(other).digests


def test_a_compiled_module_is_the_same_chain(chain):
    run = chain(torch.compile(Denoiser(), backend="aot_eager"))
    for compiled, eager in zip(run.digests, chain(Denoiser()).digests, strict=True):
        assert compiled == eager


def test_tied_and_frozen_weights_stay_so(chain):
    class Tied(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.still = (torch.nn.Linear(2, 2) for _ in range(3))
            self.two.weight = self.one.weight
            self.still.requires_grad_(False)

        def loss(self, batch):
            return super().loss(batch._replace(x=self.still(self.two(self.one(batch.x)))))

    watch = Watch()
    run = chain(Tied(), callbacks=[watch])
    assert run.module.one.weight is run.module.two.weight
    for generation in range(3):
        initial, trained = watch.initial[generation], watch.trained[generation]
        assert torch.equal(trained["one.weight"], trained["two.weight"])
        assert not torch.equal(trained["one.weight"], initial["one.weight"])
        assert torch.equal(trained["still.weight"], initial["still.weight"])
        with keyed_rng(key(0, Stream.INIT, generation)):
            assert same(initial, Tied().state_dict())


def test_run_chain_is_the_same_chain(chain):
    run = chain(vae(), mitigations=[DataAccumulation()], chunk_size=1024)
    settings = {"generations": 3, "samples_per_generation": 48, "epochs_per_generation": 2, "evaluate": False}
    whole = run_chain(vae(), ring(), mitigations=[DataAccumulation()], **settings)
    assert [record.digests for record in whole.records] == run.digests
    assert same(whole.state(-1), run.chain.state(2))
    with pytest.raises(IndexError, match="generation 3 is not one of the chain's 3"):
        whole.state(3)
    root = whole.root
    assert (root / "metrics.jsonl").exists()
    del whole
    gc.collect()
    assert not root.exists(), "a temporary run folder goes with its chain"


def test_run_chain_leaves_a_finished_chain_alone_and_refuses_another(tmp_path):
    settings = {"generations": 2, "samples_per_generation": 32, "store": tmp_path / "run", "evaluate": False}
    first = run_chain(vae(), ring(), **settings)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert run_chain(vae(), ring(), **settings).records == first.records
    pools = [path for path in stamps if path.parent.parent.name == "generations"]
    assert pools
    assert all(path.stat().st_mtime_ns == stamps[path] for path in pools)
    with pytest.raises(RuntimeError, match="its seed is 0, not 1"):
        run_chain(vae(), ring(), seed=1, **settings)


# --- 16: the safe load ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [vae, Denoiser, Plain])
def test_a_stock_checkpoint_loads_without_unpickling_objects(chain, module):
    stop = GenerationEarlyStopping("mine" if module is Plain else "train/loss", patience=9)
    run = chain(
        module(),
        mitigations=[EMA(0.5)],
        callbacks=[ModelCheckpoint(), stop],
        trainer={"enable_checkpointing": True},
    )
    (path,) = run.chain.root.rglob("*.ckpt")
    content = torch.load(path, weights_only=True)
    assert state_digest(content["state_dict"]) == run.digests[-1]["weights"]
    state = content["callbacks"]
    assert {"RecursiveTrainer", "EMA(decay=0.5)"} <= set(state)
    averages = zip(state["EMA(decay=0.5)"]["average"], run.module.parameters(), strict=True)
    assert all(torch.equal(average, weight) for average, weight in averages)
    assert [value for name, value in state.items() if name.startswith("GenerationEarlyStopping")] == [stop.state_dict()]
