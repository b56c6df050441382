import math

import pytest
import torch

from napari_transunet.training.cases import Case
from napari_transunet.training.recipes import DEFAULT, PAPER
from napari_transunet.training.slices import Cuts, SliceStore, mixed_seed

CPU = torch.device("cpu")
SLANTED = DEFAULT.with_changes(slant=20.0)


def numbered(name: str, slices: int, labelled: int) -> Case:
    """A case whose slices hold their own number, in hundredths, and of which the first few have a label."""
    planes = torch.arange(slices)[:, None, None].expand(-1, 4, 4).half() / 100
    labels = torch.zeros(slices, 4, 4, dtype=torch.uint8)
    labels[:labelled, 1] = 1
    return Case(name, name, planes, labels, step=2.0, pixel=1.0)


@pytest.fixture
def store() -> SliceStore:
    return SliceStore([numbered("long", 36, 9), numbered("short", 4, 1)])


def test_all_slices_are_in_the_store(store: SliceStore) -> None:
    assert len(store) == 40
    assert store.case.tolist() == [0] * 36 + [1] * 4
    assert (store.planes.dtype, store.labels.dtype) == (torch.float16, torch.uint8)


def test_passes_take_every_slice_once_in_orders_of_their_own(store: SliceStore) -> None:
    recipe = PAPER.with_changes(batch=7)  # batches reach over the ends of passes
    drawn = torch.cat([store.drawn(step, recipe).slices for step in range(40)])
    passes = drawn.reshape(7, 40)
    assert all(sorted(one.tolist()) == list(range(40)) for one in passes)
    assert len({tuple(one.tolist()) for one in passes}) == 7


def test_a_batch_may_be_larger_than_the_dataset(store: SliceStore) -> None:
    drawn = store.drawn(1, PAPER.with_changes(batch=100)).slices
    assert len(drawn) == 100
    assert set(drawn.tolist()) == set(range(40))


@pytest.mark.parametrize(
    "recipe", [DEFAULT, PAPER, SLANTED], ids=lambda recipe: f"{recipe.name} {recipe.slant}"
)
def test_a_step_s_slices_follow_from_the_seed_and_the_step_alone(store: SliceStore, recipe) -> None:
    first = store.drawn(5, recipe)
    torch.manual_seed(99)
    store.drawn(3, recipe)
    again = store.drawn(5, recipe)
    assert torch.equal(first.slices, again.slices)
    assert torch.equal(first.distance, again.distance)
    if recipe.slant is not None:
        assert torch.equal(first.slant, again.slant)
    assert not torch.equal(first.slices, store.drawn(6, recipe).slices)
    assert not torch.equal(first.slices, store.drawn(5, recipe.with_changes(seed=1)).slices)


@pytest.mark.parametrize("foreground", [0.0, 0.5, 1.0])
def test_shares_of_slices_and_cases(store: SliceStore, foreground: float) -> None:
    recipe = DEFAULT.with_changes(batch=20_000, foreground=foreground)
    cuts = store.drawn(0, recipe)
    chosen, distance = cuts.slices, cuts.distance
    # A case counts as the root of its length: of the slices 6 to 2, and of the labelled ones 9/6 to 1/2.
    labelled = store.labels.flatten(1).any(1)[chosen].float().mean()
    long = (store.case[chosen] == 0).float().mean()
    assert float(labelled) == pytest.approx(foreground + (1 - foreground) * (1.5 + 0.5) / 8, abs=0.02)
    assert float(long) == pytest.approx(0.75, abs=0.02)
    shares = torch.bincount(distance, minlength=3) / len(distance)
    assert shares.tolist() == pytest.approx([0.15, 0.65, 0.2], abs=0.02)


def test_without_any_label_slices_are_drawn_anywhere() -> None:
    store = SliceStore([numbered("empty", 5, 0)])
    chosen = store.drawn(0, DEFAULT.with_changes(batch=200, foreground=1.0)).slices
    assert set(chosen.tolist()) == set(range(5))


def test_neighbours_are_of_the_same_case(store: SliceStore) -> None:
    chosen = torch.tensor([0, 1, 35, 36, 39])
    images, labels, _ = store.batch(Cuts(chosen, torch.tensor([1, 2, 1, 1, 2])), 3, CPU)
    assert (images.shape, images.dtype, labels.dtype) == ((5, 3, 4, 4), torch.float32, torch.uint8)
    numbers = (100 * images[:, :, 0, 0]).round().int().tolist()
    assert numbers == [[0, 0, 1], [0, 1, 3], [34, 35, 35], [0, 0, 1], [1, 3, 3]]
    assert torch.equal(labels, store.labels[chosen])


def test_without_context_a_slice_is_alone(store: SliceStore) -> None:
    images, _, _ = store.batch(Cuts(torch.tensor([3, 37]), torch.ones(2, dtype=torch.long)), 1, CPU)
    assert (100 * images[:, :, 0, 0]).round().int().tolist() == [[3], [1]]


def test_organs_alike() -> None:
    """An organ in one slice of a hundred is drawn as often as one in all of them."""
    large = numbered("large", 99, 99)
    small = numbered("small", 1, 0)
    small.labels[0, 0] = 2
    recipe = DEFAULT.with_changes(batch=10_000, foreground=1.0, organs_alike=True)
    chosen = SliceStore([large, small]).drawn(0, recipe).slices
    assert float((chosen == 99).float().mean()) == pytest.approx(0.5, abs=0.02)


def ramps(step: float | None = 2.0) -> SliceStore:
    """Two stacks whose voxels hold how far up they lie, in hundredths of a slice, and are labelled from slice 10 on."""
    heights = torch.arange(21)[:, None, None].expand(-1, 6, 10)
    labels = (heights >= 10).to(torch.uint8)
    return SliceStore(
        [Case(name, name, heights.half() / 100, labels, step=step, pixel=1.0) for name in ("one", "other")]
    )


def test_a_slanted_cut_shows_what_lies_there() -> None:
    slant, distance = torch.tensor([[3.0, -5.0]]), torch.tensor([1.5])
    images, labels, _ = ramps().batch(Cuts(torch.tensor([21 + 10]), distance, slant), 3, CPU)
    rows = (torch.arange(6)[:, None] + 0.5) / 6 - 0.5
    columns = (torch.arange(10) + 0.5) / 10 - 0.5
    heights = 10 + 3 * rows - 5 * columns
    for channel, away in enumerate((-1.5, 0, 1.5)):
        assert torch.allclose(100 * images[0, channel], heights + away, atol=0.05)
    assert torch.equal(labels[0] == 1, heights.round() >= 10)


def test_beyond_its_ends_a_stack_goes_on_as_it_ends() -> None:
    cuts = Cuts(torch.tensor([0, 41]), torch.tensor([4.0, 4.0]), torch.tensor([[12.0, 0.0], [0.0, 12.0]]))
    images, labels, _ = ramps().batch(cuts, 3, CPU)
    assert (float(images.min()), float((100 * images).round().max())) == (0.0, 20.0)
    assert not labels[0].any()
    assert labels[1].all()
    assert (images[0, :, 0] == 0).all()
    assert (100 * images[1, :, :, -1]).round().eq(20).all()


def test_half_of_the_slices_are_cut_anew_and_none_rises_above_its_stack() -> None:
    store = ramps()
    cuts = store.drawn(0, SLANTED.with_changes(batch=4000))
    anew = cuts.slant.any(1)
    assert float(anew.float().mean()) == pytest.approx(0.5, abs=0.03)
    millimetres = 2 * cuts.distance[anew]
    assert 1 <= float(millimetres.min()) < 1.1
    assert 7.5 < float(millimetres.max()) <= 8.001
    assert set(cuts.distance[~anew].tolist()) == {0.0, 1.0, 2.0}
    # 20° over 6 and 10 pixels of 1 mm, in slices of 2 mm.
    most = torch.tensor([6, 10]) * math.tan(math.radians(20)) / 2
    assert (cuts.slant.abs() <= most).all()
    assert torch.allclose(cuts.slant.abs().amax(0), most, rtol=0.05)
    flat = SliceStore([numbered("flat", 2, 2)]).drawn(0, SLANTED.with_changes(slant=45.0, batch=500))
    assert float(flat.slant.abs().max()) <= 1


def test_stacks_that_do_not_say_their_spacing_are_cut_straight() -> None:
    store = ramps(step=None)
    cuts = store.drawn(0, SLANTED.with_changes(batch=200))
    assert not cuts.slant.any()
    images, labels, _ = store.batch(cuts, 3, CPU)
    straight = store.batch(Cuts(cuts.slices, cuts.distance.long()), 3, CPU)
    assert torch.equal(images, straight[0])
    assert torch.equal(labels, straight[1])


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
