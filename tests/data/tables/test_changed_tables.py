"""A run knows its table again: what has changed in it stops resume, test and validate; rows seen before are counted."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medsoft.errors import InputError
from medsoft.runs import table_rows
from medsoft.runs.table_rows import COLUMNS, Changes, changes, read_rows, seen_before, write_rows
from tests.builders.bags import TINY_BAGS, write_slides
from tests.builders.images import TINY, write_images

pytestmark = pytest.mark.usefixtures("brief_reports")

LABELS = ["--data.classes=[dark, light]", "--data.patient=patient"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of one epoch on a table of its own; ``set/labels.csv`` and ``run`` in the folder."""
    from medsoft.cli.main import main

    folder = tmp_path_factory.mktemp("trained")
    table = write_images(folder / "set", 24)
    words = [f"--data.table={table}", *LABELS, *TINY, "--trainer.max_epochs=1", f"--out={folder / 'run'}"]
    assert main(["fit", *words]) == 0
    return folder


@pytest.fixture
def own(tmp_path, trained) -> Path:
    """The run and its table, to spoil: the run names the table where it was made."""
    shutil.copytree(trained, tmp_path / "own")
    for file in ("config.yaml", "versions.json"):
        path = tmp_path / "own" / "run" / file
        path.write_text(path.read_text().replace(str(trained), str(tmp_path / "own")))
    return tmp_path / "own"


def edited(table: Path, change: str) -> None:
    frame = pd.read_csv(table, dtype=str)
    if change == "label":
        frame["label"] = frame["label"].map({"dark": "light", "light": "dark"})
    elif change == "gone":
        split = pd.read_csv(table.parent.parent / "run" / "split.csv").set_index("id")["split"]
        learnt = frame["path"].map(lambda path: split[Path(path).stem] == "train")
        frame = frame.drop(index=frame.index[learnt][:3])
    elif change == "content":
        for name in frame["path"][:5]:
            file = table.parent / name
            Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    frame.to_csv(table, index=False)


SAYS = {"label": "24 rows with another label", "gone": "3 rows gone"}


@pytest.mark.parametrize(
    ("verb", "change"), [("resume", "label"), ("resume", "gone"), ("test", "label"), ("validate", "gone")]
)
def test_a_changed_table_stops_the_verb_and_is_told(own, medsoft, verb, change):
    edited(own / "set" / "labels.csv", change)
    before = (own / "run" / "rows.csv").read_bytes()
    words = ["fit", f"--resume={own / 'run'}", "--trainer.max_epochs=2"]
    if verb != "resume":
        words = [verb, f"--checkpoint={own / 'run'}", f"--out={own / 'out'}"]
    code, _, err = medsoft(*words)
    assert code == 2
    assert SAYS[change] in err
    assert "--changed_table accept" in err
    assert not (own / "out").exists()
    assert (own / "run" / "rows.csv").read_bytes() == before
    code, out, err = medsoft(*words, "--changed_table=accept")
    assert code == 0, err
    assert "WARNING" in out.splitlines()[0]
    assert SAYS[change] in out.splitlines()[0]
    if verb == "resume":
        assert SAYS[change] in json.loads((own / "run" / "versions.json").read_text())["resumed"][0]["changed_table"]
        assert medsoft(*words)[0] == 0


def test_pictures_that_were_exchanged_are_another_table(own, medsoft):
    edited(own / "set" / "labels.csv", "content")
    code, _, err = medsoft("fit", f"--resume={own / 'run'}", "--trainer.max_epochs=2")
    assert code == 2
    assert "5 rows with another content" in err


def test_the_table_as_it_was_goes_on_without_a_word(own, medsoft):
    code, out, err = medsoft("test", f"--checkpoint={own / 'run'}", f"--out={own / 'out'}")
    assert code == 0, err
    assert "WARNING" not in out
    assert "OPTIMISTIC" not in out
    assert "seen_before" not in json.loads((own / "out" / "facts.json").read_text())["data"]


def test_no_id_and_no_label_can_be_read_off(trained):
    text = (trained / "run" / "rows.csv").read_text()
    for word in ("im0", "dark", "light", "P0", str(trained)):
        assert word not in text
    rows = read_rows(trained / "run" / "rows.csv")
    assert sorted(rows["split"].unique()) == ["test", "train", "val"]
    assert (rows["content"] != "").all()


def test_rows_that_were_trained_on_are_counted_and_mark_the_report(own, medsoft):
    """By content, where file and name are others; a same name of another content is none of them."""
    frame = pd.read_csv(own / "set" / "labels.csv", dtype=str)
    split = pd.read_csv(own / "run" / "split.csv").set_index("id")["split"]
    of = {part: [i for i in split.index if split[i] == part] for part in ("train", "val", "test")}
    (own / "elsewhere").mkdir()
    rows = []
    for number, id in enumerate([*of["train"][:3], *of["val"][:1], *of["test"]]):
        label = frame["label"][frame["path"].str.contains(id)].iloc[0]
        Image.open(own / "set" / "images" / f"{id}.png").save(own / "elsewhere" / f"again{number}.tif")
        rows.append({"path": f"again{number}.tif", "label": label})
    noise = np.random.default_rng(5).integers(0, 255, (40, 48, 3)).astype(np.uint8)
    Image.fromarray(noise).save(own / "elsewhere" / f"{of['train'][0]}.png")
    rows.append({"path": f"{of['train'][0]}.png", "label": "dark"})
    pd.DataFrame(rows).to_csv(own / "elsewhere" / "t.csv", index=False)
    for verb in ("test", "predict"):
        words = [f"--checkpoint={own / 'run'}", f"--data.table={own / 'elsewhere' / 't.csv'}", "--data.patient=null"]
        words.append("--report=true")
        code, out, err = medsoft(verb, *words, f"--data.root={own / 'elsewhere'}", f"--out={own / verb}")
        assert code == 0, err
        said = next(line for line in out.splitlines() if "OPTIMISTIC" in line)
        expected = f"trained on 3 of these {len(rows)} rows, and 1 of these {len(rows)} rows chose its checkpoint"
        assert expected in said
        facts = json.loads((own / verb / "facts.json").read_text())["data"]["seen_before"]
        assert (facts["train"], facts["val"], facts["rows"]) == (3, 1, len(rows))
        page = (own / verb / "report.html").read_text()
        assert expected in re.sub(r"\s+", " ", page)


def test_a_damaged_record_of_rows_is_one_sentence(own, medsoft):
    rows = own / "run" / "rows.csv"
    good = rows.read_bytes()
    for spoilt in (b"", good[:-30], b"\x00\xff" * 50, good.replace(b"train", b"trane"), b"id,label\n1,2\n"):
        rows.write_bytes(spoilt)
        code, _, err = medsoft("test", f"--checkpoint={own / 'run'}", f"--out={own / 'out'}")
        assert code == 2
        assert "rows.csv: is damaged" in err


def test_a_cross_validation_whose_table_changed_stops_and_goes_on(tmp_path, medsoft):
    table = write_images(tmp_path / "set", 16)
    words = [f"--data.table={table}", *LABELS, *TINY, "--trainer.max_epochs=1", f"--out={tmp_path / 'cv'}"]
    first = ["crossval", *words, "--folds=2", "--fold=0"]
    code, _, err = medsoft(*first)
    assert code == 0, err
    edited(table, "label")
    for again in (first, ["crossval", "--resume", tmp_path / "cv"]):
        code, _, err = medsoft(*again)
        assert code == 2
        assert "16 rows with another label" in err
    code, out, err = medsoft("crossval", "--resume", tmp_path / "cv", "--changed_table", "accept", "--fold", "1")
    assert code == 0, err
    assert "16 rows with another label" in out


def test_a_run_on_bags_knows_its_table_too(tmp_path, medsoft):
    slides = write_slides(tmp_path / "set", n=24)
    where = [f"--data.table={slides}", f"--data.features={slides.parent / 'features'}"]
    assert medsoft("fit", *TINY_BAGS, *where, "--trainer.max_epochs=1", f"--out={tmp_path / 'run'}")[0] == 0
    assert (read_rows(tmp_path / "run" / "rows.csv")["content"] != "").all()
    frame = pd.read_csv(slides)
    frame["label"] = frame["label"].map({"ill": "healthy", "healthy": "ill"})
    frame.to_csv(slides, index=False)
    code, _, err = medsoft("test", f"--checkpoint={tmp_path / 'run'}", f"--out={tmp_path / 'test'}")
    assert code == 2
    assert "24 rows with another label" in err


# ---- the comparison itself

HEX = st.integers(0, 40).map(lambda i: f"{i:016x}")


def table_of(rows: dict[str, tuple[str, str, str]]) -> pd.DataFrame:
    """Of (label, split, content) by id."""
    values = [
        {"id": id, "label": label, "split": split, "table_split": split, "path": f"{i:016x}", "content": content}
        for i, (id, (label, split, content)) in enumerate(rows.items())
    ]
    return pd.DataFrame(values, columns=list(COLUMNS), dtype=object)


TABLES = st.dictionaries(
    HEX, st.tuples(HEX, st.sampled_from(["train", "val", "test"]), st.one_of(st.just(""), HEX)), max_size=8
)


@settings(max_examples=30, deadline=None)
@given(TABLES, TABLES)
def test_what_has_changed_is_counted_row_by_row(before, now):
    found = changes(table_of(before), table_of(now))
    both = before.keys() & now.keys()
    assert found == Changes(
        new=len(now.keys() - both),
        gone=len(before.keys() - both),
        labels=sum(before[id][0] != now[id][0] for id in both),
        splits=sum(before[id][1] != now[id][1] for id in both),
        contents=sum(bool(before[id][2] and now[id][2]) and before[id][2] != now[id][2] for id in both),
    )
    assert not changes(table_of(now), table_of(now))


@settings(max_examples=30, deadline=None)
@given(TABLES)
def test_rows_are_read_as_they_were_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    table = table_of(rows)
    write_rows(table, path)
    pd.testing.assert_frame_equal(read_rows(path), table, check_dtype=False)
    seen = seen_before([path], table, ["train", "val", "test"])
    assert (seen.train, seen.rows) <= (len(rows), len(rows))
    assert seen.train >= sum(split == "train" for _, split, _ in rows.values())


def test_a_directory_in_place_of_the_record_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(tmp_path)


def test_labels_that_the_training_did_not_have_are_refused(fit, medsoft, table, tmp_path):
    out = tmp_path / "run"
    fit("--data.classes=[low, high]", "--data.positive=1", "--trainer.max_epochs=1", f"--out={out}", label="grade")
    assert json.loads((out / "labels.json").read_text()) == ["0", "1"]
    other = pd.read_csv(table)
    other["grade"] = other["grade"].map({0: "benign", 1: "1"})
    other["path"] = [str(table.parent / path) for path in other["path"]]
    other.to_csv(tmp_path / "other.csv", index=False)
    words = [f"--checkpoint={out}", f"--data.table={tmp_path / 'other.csv'}"]
    for verb in ("predict", "test"):
        code, _, err = medsoft(verb, *words, f"--out={tmp_path / verb}")
        assert code == 2
        assert "holds benign, which the training" in err
    code, _, err = medsoft("predict", *words, "--data.label=null", f"--out={tmp_path / 'without'}")
    assert code == 0, err


def test_a_bundle_tells_of_rows_with_the_same_content(trained, medsoft, tmp_path):
    """A bundle keeps no ids: the pictures are known again under other names."""
    assert medsoft("export", trained / "run", f"--out={tmp_path / 'bundle'}")[0] == 0
    contents = pd.read_csv(tmp_path / "bundle" / "contents.csv")
    assert list(contents.columns) == ["split", "content"]
    assert set(contents["split"]) == {"train", "val"}
    part_of = pd.read_csv(trained / "run" / "split.csv").set_index("id")["split"]
    table = pd.read_csv(trained / "set" / "labels.csv").head(8)
    (tmp_path / "other").mkdir()
    for i, path in enumerate(table["path"]):
        shutil.copyfile(trained / "set" / path, tmp_path / "other" / f"x{i}.png")
    learnt = sum(part_of[Path(path).stem] == "train" for path in table["path"])
    assert learnt
    table["path"] = [f"other/x{i}.png" for i in range(8)]
    table.to_csv(tmp_path / "other.csv", index=False)
    words = [f"--bundle={tmp_path / 'bundle'}", f"--data.table={tmp_path / 'other.csv'}"]
    code, out, err = medsoft("predict", *words, f"--out={tmp_path / 'out'}")
    assert code == 0, err
    assert f"trained on {learnt} of these 8 rows" in out


def test_members_that_read_different_features_are_of_the_same_table(tmp_path):
    """Contents are those of feature files: one member's say nothing of the other's."""

    def rows(contents: str, label: str = "1" * 16) -> pd.DataFrame:
        return pd.DataFrame([["0" * 16, label, "test", "", "2" * 16, contents * 16]], columns=list(COLUMNS))

    table = tmp_path / "labels.csv"
    members = []
    for name, contents in (("pooled", "a"), ("tokens", "b")):
        run = tmp_path / f"run-{name}"
        run.mkdir()
        (run / "config.yaml").write_text(f"data: {{table: {table}, features: {tmp_path / name}}}\n")
        write_rows(rows(contents), run / "rows.csv")
        members.append(SimpleNamespace(config=run / "config.yaml"))
    samples = SimpleNamespace(source=table, frame=pd.DataFrame())
    config = SimpleNamespace(data={"features": str(tmp_path / "pooled")}, changed_table="error")

    def checked(now: pd.DataFrame) -> list[str]:
        data = SimpleNamespace(samples=samples)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(table_rows, "rows_of", lambda data: now)
            return table_rows.check_rows(data, "test", ["test"], config, members)

    assert checked(rows("a")) == []
    with pytest.raises(InputError, match=r"run-pooled was trained on it.*1 row with another content"):
        checked(rows("c"))
    with pytest.raises(InputError, match="1 row with another label"):
        checked(rows("a", label="3" * 16))
