"""Datasets of wildlife-datasets as data folders; wildlife-tools as a second opinion (realdata, extra `wildlife`)."""

import logging
import os
import pickle
import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.data.animals import NEW
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.data.table.metadata import load_metadata
from reid_core.errors import UserError
from reid_core.metrics.geo_mean import baks, baus, compute_shares
from reid_core.model.embed import embed
from reid_core.model.place import Place
from reid_core.model.reid_model import make_model
from reid_core.scoring.shortlist import find_most_similar
from reid_core.scoring.thresholds import name_queries
from reid_core.wildlife import INSTALL, load_wildlife, main, open_dataset, transform, write_metadata


class Hyenas:
    """What is read of a wildlife-datasets dataset."""

    unknown_name = "unknown"

    def __init__(self, root, df=None):
        photographs = sorted(path.name for path in Path(root).glob("*.jpg"))
        catalogue = {"image_id": range(len(photographs)), "identity": "ada", "path": photographs}
        self.root, self.df = str(root), pd.DataFrame(catalogue) if df is None else df

    def create_catalogue(self):
        raise NotImplementedError


def frame(**columns):
    """Two photographs; columns replace or add to the least that a dataset has, None removes one."""
    base = {"image_id": [7, 8], "identity": ["ada", "unknown"], "path": ["a.jpg", "b.jpg"]}
    return pd.DataFrame({name: values for name, values in (base | columns).items() if values is not None})


@pytest.fixture
def root(tmp_path):
    """A dataset's folder with photographs a, b, c."""
    folder = tmp_path / "root"
    folder.mkdir()
    for index, name in enumerate("abc"):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.jpg")
    return folder


def test_metadata_is_written_as_animalclef_writes_it(root):
    df = pd.DataFrame(
        {
            "image_id": ["x", "y", "z"],
            "identity": [12.0, np.nan, 3.0],  # integers with a gap are floats to pandas
            "path": ["a.jpg", "./b.jpg", str(root / "c.jpg")],
            "date": pd.to_datetime(["2015-07-02 11:04:59", None, "2016-01-31 00:00:00"]),
            "orientation": ["left", "", None],
            "species": [["red deer", "roe deer"], "lynx", None],
            "bystander": [1, 2, 3],
        }
    )
    assert write_metadata(Hyenas(root, df)) == root
    assert (root / "metadata.csv").read_text() == (
        "image_id,identity,path,date,orientation,species,split,dataset\n"
        'x,12,a.jpg,2015-07-02,left,"red deer, roe deer",database,Hyenas\n'
        "y,,b.jpg,,,lynx,query,Hyenas\n"
        "z,3,c.jpg,2016-01-31,,,database,Hyenas\n"
    )
    assert sorted(path.name for path in root.iterdir()) == ["a.jpg", "b.jpg", "c.jpg", "metadata.csv"]


def test_the_table_is_that_of_the_reader(root):
    df = frame(dataset=["Lynx", "Turtle"], orientation=["left", np.nan])
    table = load_wildlife(Hyenas(root, df))
    assert table.equals(load_metadata(root))
    assert table.to_pylist()[0] == {
        **{"image_id": "7", "identity": "ada", "path": "a.jpg", "date": None, "orientation": "left"},
        **{"species": None, "split": "database", "dataset": "Lynx", "group": "Lynx"},
    }
    assert table["identity"].to_pylist() == ["ada", None]
    assert table["group"].to_pylist() == ["Lynx", "Turtle"]


def test_group_is_what_is_asked_then_the_column_then_the_class(root):
    for number, (group, columns, expected) in enumerate(
        [("Cats", {"dataset": ["Lynx"] * 2}, "Cats"), (None, {"dataset": ["Lynx"] * 2}, "Lynx"), (None, {}, "Hyenas")]
    ):
        data = root.parent / f"data-{number}"
        table = load_wildlife(Hyenas(root, frame(**columns)), group=group, folder=data)
        assert set(table["group"].to_pylist()) == {expected}


def test_renamed_columns_and_another_name_for_unknown(root):
    df = frame(path=None, identity=None, file=["a.jpg", "b.jpg"], animal=["unknown", "?"])
    dataset = SimpleNamespace(root=root, df=df, col_path="file", col_label="animal", unknown_name="?")
    assert load_wildlife(dataset)["identity"].to_pylist() == ["unknown", None]


def test_dates_that_name_no_day_are_left_empty_and_counted(root, caplog):
    with caplog.at_level(logging.WARNING):
        table = load_wildlife(Hyenas(root, frame(date=["2015:7:02 10:00", "2015"])))
    assert table["date"].to_pylist() == ["2015-07-02", None]
    assert "1 date(s) name no day" in caplog.text
    assert "'2015'" in caplog.text


def test_bounding_boxes_are_warned_of(root, caplog):
    with caplog.at_level(logging.WARNING):
        load_wildlife(Hyenas(root, frame(bbox=[[0, 0, 2, 2], None])))
    assert "photographs are read whole" in caplog.text


def test_animalclefs_own_metadata_is_read_and_stays(small_data):
    before = (small_data / "metadata.csv").read_bytes()
    df = pd.read_csv(small_data / "metadata.csv").sample(frac=1, random_state=0)
    table = load_wildlife(SimpleNamespace(root=str(small_data), df=df))
    assert table.equals(load_metadata(small_data))
    assert (small_data / "metadata.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("filename,identity\na.jpg,ada\n", r"it lacks column\(s\) image_id, path, split, dataset"),
        ("image_id,identity,path,split,dataset\n7,ada,a.jpg,database,Hyenas\n", "1 images, the dataset has 2"),
        ("image_id,identity,path,split,dataset\n7,bo,a.jpg,database,Hyenas\n8,,b.jpg,query,Hyenas\n", "'bo'.*'ada'"),
        ("image_id,identity,path,split,dataset\n6,ada,a.jpg,database,Hyenas\n8,,b.jpg,query,Hyenas\n", "'7' is not in"),
        ("image_id,identity,path,split,dataset\n7\n8\n", "identity of image_id '7' is ''"),
    ],
)
def test_other_metadata_is_never_overwritten(root, content, problem):
    (root / "metadata.csv").write_text(content)
    with pytest.raises(UserError, match=rf"metadata\.csv: exists and does not describe this dataset \(.*{problem}"):
        write_metadata(Hyenas(root, frame()))
    assert (root / "metadata.csv").read_text() == content
    data = write_metadata(Hyenas(root, frame()), folder=root.parent / "data")  # the way out that the message names
    assert load_metadata(data)["image_id"].to_pylist() == ["7", "8"]


def test_a_folder_elsewhere_holds_links_or_copies(root, monkeypatch):
    dataset = Hyenas(root, frame())
    linked = write_metadata(dataset, folder=root.parent / "linked")
    assert (linked / "a.jpg").samefile(root / "a.jpg")

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    copied = write_metadata(dataset, folder=root.parent / "copied")
    assert not (copied / "a.jpg").samefile(root / "a.jpg")
    assert (copied / "a.jpg").read_bytes() == (root / "a.jpg").read_bytes()
    assert sorted(path.name for path in copied.iterdir()) == ["a.jpg", "b.jpg", "metadata.csv"]
    assert sorted(path.name for path in root.iterdir()) == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"image_id": None, "path": None}, r"lacks column\(s\) image_id, path; it has: identity"),
        ({"image_id": [], "identity": [], "path": []}, "df has no rows"),
        ({"path": ["a.jpg", "../b.jpg"]}, "path '../b.jpg' is not a file within root"),
        ({"path": ["a.jpg", "/elsewhere/b.jpg"]}, "path '/elsewhere/b.jpg' is not a file within root"),
        ({"path": ["a.jpg", "x/.."]}, "path 'x/..' is not a file within root"),
        ({"path": ["a.jpg", None]}, "path '' is not a file within root"),
        ({"image_id": [7, 7]}, "image_id '7' is given 2 times"),
        ({"image_id": [None, 7]}, "image_id is empty in row 0"),
        ({"dataset": ["Lynx", None]}, "dataset is empty in row 1"),
        ({"identity": ["ada", NEW]}, f"identity '{NEW}' is reserved"),
    ],
)
def test_bad_frames_are_refused_before_anything_is_written(root, columns, problem):
    with pytest.raises(UserError, match=problem):
        write_metadata(Hyenas(root, frame(**columns)))
    assert not (root / "metadata.csv").exists()


def test_other_bad_datasets(root):
    with pytest.raises(UserError, match="it has no root"):
        write_metadata(SimpleNamespace(root=None, df=frame()))
    with pytest.raises(UserError, match="img_load='bbox' changes photographs"):
        write_metadata(SimpleNamespace(root=root, df=frame(), img_load="bbox"))
    with pytest.raises(UserError, match=r"metadata\.csv: cannot be written: No such file"):
        write_metadata(SimpleNamespace(root=root / "nowhere", df=frame()))
    with pytest.raises(UserError, match="photograph not found"):
        load_wildlife(Hyenas(root, frame(path=["a.jpg", "missing.jpg"])))


@pytest.fixture
def package(monkeypatch):
    """A wildlife-datasets with one dataset."""
    parent, datasets = ModuleType("wildlife_datasets"), ModuleType("wildlife_datasets.datasets")
    parent.datasets, datasets.Hyenas = datasets, Hyenas
    monkeypatch.setitem(sys.modules, "wildlife_datasets", parent)
    monkeypatch.setitem(sys.modules, "wildlife_datasets.datasets", datasets)
    return datasets


def test_command_writes_and_says_what_to_do_next(package, root, capsys):
    assert main(["Hyenas", str(root), "--group", "Spotted"]) == 0
    assert capsys.readouterr().out == f"3 photographs of 1 animals, 0 queries\nuse: --data {root}\n"
    assert load_metadata(root)["dataset"].to_pylist() == ["Spotted"] * 3


def test_command_without_the_extra_says_what_installs_it(monkeypatch, root):
    monkeypatch.setitem(sys.modules, "wildlife_datasets", None)
    with pytest.raises(UserError) as error:
        main(["Hyenas", str(root)])
    assert INSTALL in str(error.value)
    assert "[wildlife]" in INSTALL


def test_command_names_what_is_wrong(package, root, monkeypatch):
    with pytest.raises(UserError, match="no dataset 'Hyena'; alike: Hyenas"):
        main(["Hyena", str(root)])
    with pytest.raises(UserError, match=r"nowhere: no such folder; .*Hyenas\.get_data"):
        main(["Hyenas", str(root / "nowhere")])
    monkeypatch.setattr(package.Hyenas, "__init__", lambda self, root: [][0])
    with pytest.raises(UserError, match="Hyenas cannot be read from this folder: IndexError"):
        main(["Hyenas", str(root)])


def encode(image, **options):
    buffer = BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def drawn(height, width):
    """A smooth picture, as photographs are."""
    coarse = np.random.default_rng(3).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def untrained():
    """What `transform` reads of a bundle."""
    config = override(tiny(), {"data.image_px": 32, "data.mean": (0.4, 0.5, 0.6), "data.std": (0.2, 0.25, 0.3)})
    return SimpleNamespace(config=config, model=make_model(config).eval())


def test_transform_gives_the_pixels_of_the_image_cache(untrained, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # EXIF orientation: to be turned by 90 degrees
    contents = {
        "plain.jpg": encode(drawn(50, 70), format="JPEG"),
        "turned.jpg": encode(drawn(50, 70), format="JPEG", exif=turned),
        "large.jpg": encode(drawn(300, 280), format="JPEG"),  # at least 4 × 32: the cache decodes it at half the size
        "clear.png": encode(drawn(40, 40).convert("RGBA").rotate(45), format="PNG"),
        "deep.png": encode(Image.fromarray(np.arange(0, 64000, 40, dtype=np.uint16).reshape(40, 40)), format="PNG"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    cache = ImageCache(build_cache(tmp_path / "cache", tmp_path, list(contents), 32))
    assert cache.error == [None] * 5
    expected = untrained.model.normalise(torch.from_numpy(cache.pixels(range(5))))
    convert = pickle.loads(pickle.dumps(transform(untrained)))  # as a DataLoader's workers get it
    given = torch.stack([convert(Image.open(tmp_path / name)) for name in contents])
    assert torch.equal(given, expected)
    whole = convert(Image.open(tmp_path / "large.jpg").convert("RGB"))
    assert 0 < (whole - expected[2]).abs().max() < 3 / 255 / 0.2  # at most three of 255 grey levels


# ---- the second opinion ----

TINY_RUN = [
    *("--preset", "tiny", "--set", "model.backbone=swin_micro_patch4_window4_64", "--set", "match.matcher=none"),
    *("--set", "model.weights=random"),
    *("--set", "model.embedding_dim=32", "--set", "optim.epochs=1", "--set", "optim.batch_size=8"),
]


class Opinions(NamedTuple):
    """The same photographs, embedded here and there; N images, of which Q are queries and G the gallery."""

    ours_ND: np.ndarray
    theirs_ND: np.ndarray
    identity_N: np.ndarray
    group_N: np.ndarray
    query_Q: np.ndarray
    gallery_G: np.ndarray


def folder(variable):
    path = Path(os.environ.get(variable, "not set")).resolve()
    if not path.exists():
        pytest.skip(f"{variable} names no folder; make test-real sets it")
    return path


def exported_model(out, small_data):
    """Embedded data, and the model that one epoch on them exports."""
    from reid_core.__main__ import main as run
    from reid_core.experiment.bundle.folder import read_bundle

    assert run(["--data", str(small_data), "--out", str(out), *TINY_RUN]) == 0
    return small_data, read_bundle(out / "best")


def pretrained_model(*_):
    """The real photographs, and a small backbone as it was published."""
    weights = str(folder("REID_WEIGHTS") / "mobilenetv2_100.safetensors")
    settings = {"model.backbone": "mobilenetv2_100", "model.weights": weights, "model.head": "none"}
    settings |= {"model.unfrozen_stages": 0, "data.mean": 0.5, "data.std": 0.5, "data.image_px": 96}
    config = override(tiny(), settings)
    return folder("REID_PHOTOS"), SimpleNamespace(config=config, model=make_model(config).eval())


def take_queries(identity_N, group_N):
    """Every fourth animal is new: all its images are queries; of the others, the first image is, if there are more."""
    animal_N = np.array([f"{group}/{identity}" for group, identity in zip(group_N, identity_N, strict=True)])
    query = []
    for number, animal in enumerate(np.unique(animal_N)):
        rows = np.flatnonzero(animal_N == animal)
        query += list(rows) if number % 4 == 0 else list(rows[: len(rows) > 1])
    return np.sort(query), np.setdiff1d(np.arange(len(animal_N)), query)


@pytest.fixture(scope="module", params=[exported_model, pretrained_model], ids=["embedded", "photographs"])
def opinions(request, tmp_path_factory, small_data):
    datasets = pytest.importorskip("wildlife_datasets.datasets")
    features = pytest.importorskip("wildlife_tools.features")
    scratch = tmp_path_factory.mktemp("opinions")
    root, bundle = request.param(scratch / "out", small_data)
    dataset = datasets.AnimalCLEF2025(
        str(root), transform=transform(bundle), load_label=True, factorize_label=True, remove_unknown=False
    )
    dataset = dataset.get_subset((dataset.df["split"] == "database").tolist())
    theirs_ND = features.DeepFeatures(bundle.model, batch_size=64, num_workers=0, device="cpu")(dataset)
    paths = dataset.df["path"].tolist()
    cache = ImageCache(build_cache(scratch / "cache", root, paths, bundle.config.data.image_px))
    assert cache.error == [None] * len(paths)
    ours_ND, _ = embed(bundle.model, cache, np.arange(len(paths)), Place())
    names = [dataset.df[column].to_numpy(dtype=object) for column in ("identity", "dataset")]
    return Opinions(ours_ND, theirs_ND, *names, *take_queries(*names))


def groups_of(opinions):
    """Query and gallery rows of each group."""
    for group in sorted(set(opinions.group_N)):
        inside_N = opinions.group_N == group
        yield opinions.query_Q[inside_N[opinions.query_Q]], opinions.gallery_G[inside_N[opinions.gallery_G]]


@pytest.mark.realdata
def test_their_features_of_our_model_are_our_embeddings(opinions):
    assert opinions.theirs_ND.shape == opinions.ours_ND.shape
    assert np.abs(opinions.theirs_ND - opinions.ours_ND).max() <= 1e-4
    np.testing.assert_allclose(np.linalg.norm(opinions.theirs_ND, axis=1), 1, atol=1e-5)


@pytest.mark.realdata
def test_large_photographs_agree_too_when_their_file_is_opened_and_not_read(tmp_path):
    datasets = pytest.importorskip("wildlife_datasets.datasets")
    root, bundle = pretrained_model()
    bundle.config = override(bundle.config, {"data.image_px": 48})  # from 192 px on the cache decodes at half the size
    dataset = datasets.AnimalCLEF2025(str(root), transform=transform(bundle))
    paths = dataset.df["path"].tolist()[::50]
    cache = ImageCache(build_cache(tmp_path, root, paths, 48))
    expected = bundle.model.normalise(torch.from_numpy(cache.pixels(range(len(paths)))))
    read = torch.stack([dataset[row] for row in range(0, len(dataset), 50)])
    dataset.load_image = Image.open
    opened = torch.stack([dataset[row] for row in range(0, len(dataset), 50)])
    assert torch.equal(opened, expected)
    assert not torch.equal(read, expected)
    with torch.inference_mode():
        cosine = (bundle.model(read) * bundle.model(expected)).sum(dim=1)
    assert cosine.min() > 0.9


@pytest.mark.realdata
def test_their_nearest_neighbour_is_the_first_of_our_shortlist(opinions):
    similarity = pytest.importorskip("wildlife_tools.similarity")
    inference = pytest.importorskip("wildlife_tools.inference")
    for query_Q, gallery_G in groups_of(opinions):
        index_QB, cosine_QB = find_most_similar(opinions.ours_ND[query_Q], opinions.ours_ND[gallery_G], 2)
        cosine_QG = similarity.CosineSimilarity()(opinions.theirs_ND[query_Q], opinions.theirs_ND[gallery_G])["cosine"]
        np.testing.assert_allclose(cosine_QG.max(axis=1), cosine_QB[:, 0], atol=1e-4)
        clear_Q = cosine_QB[:, 0] - cosine_QB[:, 1] > 1e-4  # two equally similar images may come in either order
        assert clear_Q.mean() > 0.9
        theirs_Q = inference.KnnClassifier(k=1, database_labels=opinions.identity_N[gallery_G])(cosine_QG)
        ours_Q = opinions.identity_N[gallery_G][index_QB[:, 0]]
        assert (cosine_QG.argmax(axis=1) == index_QB[:, 0])[clear_Q].all()
        assert (theirs_Q == ours_Q)[clear_Q].all()
        assert len(set(ours_Q)) > 3


@pytest.mark.realdata
def test_their_baks_and_baus_are_ours(opinions):
    metrics = pytest.importorskip("wildlife_datasets.metrics")
    seen = set()
    for query_Q, gallery_G in groups_of(opinions):
        index_Q1, cosine_Q1 = find_most_similar(opinions.ours_ND[query_Q], opinions.ours_ND[gallery_G], 1)
        truth_Q = opinions.identity_N[query_Q]
        known_Q = np.isin(truth_Q.astype(str), opinions.identity_N[gallery_G].astype(str))
        new = sorted(set(truth_Q[~known_Q]))
        for share in (0.0, 0.2, 0.5, 0.8, 1.01):  # from all named to all new
            threshold = np.quantile(cosine_Q1, share) if share <= 1 else 2.0
            answer_Q = name_queries(opinions.identity_N[gallery_G][index_Q1[:, 0]], cosine_Q1[:, 0], threshold)
            for keep_Q in (np.full(len(query_Q), True), known_Q, ~known_Q):  # one of the two is undefined in the last
                shares = compute_shares(answer_Q[keep_Q], truth_Q[keep_Q], known_Q[keep_Q])
                given = truth_Q[keep_Q].tolist(), answer_Q[keep_Q].tolist(), new
                theirs = metrics.BAKS(*given), metrics.BAUS(*given, NEW)
                np.testing.assert_allclose((baks(shares), baus(shares)), theirs, atol=1e-12)
                seen.add(tuple(np.round(theirs, 6)))
    assert len(seen) > 12  # not the same few numbers again and again


@pytest.mark.realdata
@pytest.mark.parametrize("place", ["embedded", "photographs"])
def test_their_animalclef_dataset_is_read_where_it_lies(place, small_data, capsys):
    pytest.importorskip("wildlife_datasets")
    root = small_data if place == "embedded" else folder("REID_PHOTOS")
    dataset = open_dataset("AnimalCLEF2025", root)
    assert load_wildlife(dataset).equals(load_metadata(root))
    assert main(["AnimalCLEF2025", str(root)]) == 0
    assert f"{sum(dataset.df['split'] == 'query')} queries" in capsys.readouterr().out


@pytest.mark.realdata
def test_a_dataset_of_theirs_without_metadata_becomes_a_data_folder(tmp_path, capsys):
    pytest.importorskip("wildlife_datasets")
    for animal in (0, 17):  # DogFaceNet's own layout
        (tmp_path / "after_4_bis" / str(animal)).mkdir(parents=True)
        for photograph in range(2):
            drawn(20, 20).save(tmp_path / "after_4_bis" / str(animal) / f"{animal}.{photograph}.jpg")
    assert main(["DogFaceNet", str(tmp_path)]) == 0
    assert "4 photographs of 2 animals, 0 queries" in capsys.readouterr().out
    metadata = load_metadata(tmp_path)
    assert set(metadata["group"].to_pylist()) == {"DogFaceNet"}
    for row in metadata.to_pylist():
        assert Path(row["path"]).parts[1] == row["identity"]
