import pytest
import torch

from napari_transunet.training.cases import Case
from napari_transunet.training.recipes import DEFAULT, PAPER
from napari_transunet.training.slices import SliceStore, mixed_seed

CPU = torch.device("cpu")


def numbered(name: str, slices: int, labelled: int) -> Case:
    """A case whose slices hold their own number, in hundredths, and of which the first few have a label."""
    planes = torch.arange(slices)[:, None, None].expand(-1, 4, 4).half() / 100
    labels = torch.zeros(slices, 4, 4, dtype=torch.uint8)
    labels[:labelled, 1] = 1
    return Case(name, name, planes, labels)


@pytest.fixture
def store() -> SliceStore:
    return SliceStore([numbered("long", 36, 9), numbered("short", 4, 1)])


def test_all_slices_are_in_the_store(store: SliceStore) -> None:
    assert len(store) == 40
    assert store.case.tolist() == [0] * 36 + [1] * 4
    assert (store.planes.dtype, store.labels.dtype) == (torch.float16, torch.uint8)


def test_passes_take_every_slice_once_in_orders_of_their_own(store: SliceStore) -> None:
    recipe = PAPER.with_changes(batch=7)  # batches reach over the ends of passes
    drawn = torch.cat([store.drawn(step, recipe)[0] for step in range(40)])
    passes = drawn.reshape(7, 40)
    assert all(sorted(one.tolist()) == list(range(40)) for one in passes)
    assert len({tuple(one.tolist()) for one in passes}) == 7


def test_a_batch_may_be_larger_than_the_dataset(store: SliceStore) -> None:
    drawn = store.drawn(1, PAPER.with_changes(batch=100))[0]
    assert len(drawn) == 100
    assert set(drawn.tolist()) == set(range(40))


@pytest.mark.parametrize("recipe", [DEFAULT, PAPER], ids=lambda recipe: recipe.name)
def test_a_step_s_slices_follow_from_the_seed_and_the_step_alone(store: SliceStore, recipe) -> None:
    first = store.drawn(5, recipe)
    torch.manual_seed(99)
    store.drawn(3, recipe)
    again = store.drawn(5, recipe)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[0], store.drawn(6, recipe)[0])
    assert not torch.equal(first[0], store.drawn(5, recipe.with_changes(seed=1))[0])


@pytest.mark.parametrize("foreground", [0.0, 0.5, 1.0])
def test_shares_of_slices_and_cases(store: SliceStore, foreground: float) -> None:
    recipe = DEFAULT.with_changes(batch=20_000, foreground=foreground)
    chosen, distance = store.drawn(0, recipe)
    # A case counts as the root of its length: of the slices 6 to 2, and of the labelled ones 9/6 to 1/2.
    labelled = store.labels.flatten(1).any(1)[chosen].float().mean()
    long = (store.case[chosen] == 0).float().mean()
    assert float(labelled) == pytest.approx(foreground + (1 - foreground) * (1.5 + 0.5) / 8, abs=0.02)
    assert float(long) == pytest.approx(0.75, abs=0.02)
    shares = torch.bincount(distance, minlength=3) / len(distance)
    assert shares.tolist() == pytest.approx([0.15, 0.65, 0.2], abs=0.02)


def test_without_any_label_slices_are_drawn_anywhere() -> None:
    store = SliceStore([numbered("empty", 5, 0)])
    chosen = store.drawn(0, DEFAULT.with_changes(batch=200, foreground=1.0))[0]
    assert set(chosen.tolist()) == set(range(5))


def test_neighbours_are_of_the_same_case(store: SliceStore) -> None:
    chosen = torch.tensor([0, 1, 35, 36, 39])
    images, labels, _ = store.batch(chosen, torch.tensor([1, 2, 1, 1, 2]), 3, CPU)
    assert (images.shape, images.dtype, labels.dtype) == ((5, 3, 4, 4), torch.float32, torch.uint8)
    numbers = (100 * images[:, :, 0, 0]).round().int().tolist()
    assert numbers == [[0, 0, 1], [0, 1, 3], [34, 35, 35], [0, 0, 1], [1, 3, 3]]
    assert torch.equal(labels, store.labels[chosen])


def test_without_context_a_slice_is_alone(store: SliceStore) -> None:
    images, _, _ = store.batch(torch.tensor([3, 37]), 1, 1, CPU)
    assert (100 * images[:, :, 0, 0]).round().int().tolist() == [[3], [1]]


def test_it_stays_on_the_cpu(store: SliceStore) -> None:
    assert store.to(CPU) is store
    assert store.planes.device == CPU


def test_seeds_of_neighbours_share_nothing() -> None:
    seeds = [mixed_seed(seed, step, rank) for seed in range(4) for step in range(50) for rank in range(4)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    bits = torch.tensor([[seed >> bit & 1 for bit in range(63)] for seed in seeds]).float()
    assert (bits.mean(0) - 0.5).abs().max() < 0.1
    assert mixed_seed(1, 2) != mixed_seed(2, 1)
